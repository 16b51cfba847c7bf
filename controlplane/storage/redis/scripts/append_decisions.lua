-- Adds a batch of decisions to their log, unless it is there.
--
-- KEYS  1 decisions  2 the last batch of the source  3 bytes in the log
-- ARGV  1 number of the batch  2 seconds to remember the source  3 head  4 packed decisions
-- Returns 1, or 0 for a batch that came before

local last = redis.call('GET', KEYS[2])
if last and tonumber(last) >= tonumber(ARGV[1]) then return 0 end
local bytes = tonumber(redis.call('GET', KEYS[3]) or '0') + #ARGV[3] + #ARGV[4]
redis.call('XADD', KEYS[1], '*', 'h', ARGV[3], 'b', ARGV[4])
redis.call('SET', KEYS[2], ARGV[1], 'EX', ARGV[2])
redis.call('SET', KEYS[3], string.format('%.0f', bytes))
return 1
