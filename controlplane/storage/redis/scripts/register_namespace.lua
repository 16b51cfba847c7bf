-- Adds a namespace to the list of all namespaces and announces the list's growth.
--
-- KEYS  1 set of namespaces  2 its mark, another one for every growth
-- ARGV  1 namespace  2 a fresh mark
-- Returns 1 if it was new, 0 if it was known
--
-- The mark is random rather than counted: a store that lost registrations and took others would
-- arrive at the same number with other namespaces.

local added = redis.call('SADD', KEYS[1], ARGV[1])
if added == 1 then redis.call('SET', KEYS[2], ARGV[2]) end
return added
