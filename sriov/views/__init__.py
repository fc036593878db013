"""How answers look: tables, documents for -o json and yaml, a drawing of the node. Reads and decides nothing."""
