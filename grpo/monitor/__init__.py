"""What watches a run: gates on its numbers, a watchdog on its waits, and the redaction of secrets.

``gates`` judges every step by ``gate_table``; ``waits`` names what is waited for and ``watchdog`` ends a run in which
a wait makes no progress, with ``peers`` for the other ranks and ``interpreter_watch`` for an interpreter that is held
by native code; ``redaction`` keeps keys and tokens out of everything that is printed or written. No torch, and nothing
of the layers above: what the watchdog and the gates need from a recipe they state as protocols.
"""
