"""How the node becomes as a pool file says, and back: plan, apply, verify, undo, each PF apart.

state says how a PF is and should be, steps how one becomes the other and whom each step disturbs, guards what is
refused unless forced; worker carries a PF's plan out by executor, on given terms, and ledger keeps on disk what was
done.
"""
