"""What a session remembers, one cache a layer.

Every cache offers
    cuttable         whether it can be cut back to any length
    mark(length)     -> a point in time to come back to: now, or after `length` tokens where it is cuttable
    rewind(mark)     forgets everything after it
    clear()          forgets everything
    bytes            memory held, in bytes
"""
