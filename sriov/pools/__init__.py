"""What the admin wants: pool files, the existing device plugin's configurations, and which VF is whose.

poolfile reads both kinds, by yamlnodes and jsonnodes so that each error has its place; assignment gives each VF to
the first pool that selects it, or says why none does; overlap and advice find what an admin cannot have meant.
"""
