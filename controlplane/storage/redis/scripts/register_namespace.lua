-- Adds a namespace to the list of all namespaces and announces the list's growth.
--
-- KEYS  1 set of namespaces  2 its revision
-- ARGV  1 namespace
-- Returns 1 if it was new, 0 if it was known

local added = redis.call('SADD', KEYS[1], ARGV[1])
if added == 1 then redis.call('INCR', KEYS[2]) end
return added
