"""The commands of `vfpool` that are about a node: one module each, with `run(arguments, node, output)`.

`arguments` declares what each takes, and loads its module only when it is called. `invocation` has what all are
given; `signals` and `causes` are for those that change the node. A command reads and decides by the modules of
`sriov`; here it only joins them and says what came of it.
"""
