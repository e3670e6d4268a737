"""What a session remembers, one cache a layer.

Every cache offers
    mark()           -> a point in time to come back to
    rewind(mark)     forgets everything after it
    clear()          forgets everything
    bytes            memory held, in bytes
"""
