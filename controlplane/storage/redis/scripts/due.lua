-- Looks for instances whose deadline has passed, and remembers that somebody looked.
--
-- KEYS  1 deadlines  2 swept (hash: `at` of the last look, `until` nothing is due)
-- ARGV  1 limit  2 freeze gap (ms)  3 grace (ms)
-- Returns {the store's time in milliseconds, number of deadlines, {instance id..}}
--
-- If nobody looked for longer than the gap, or ever, nothing is due for the grace period: whoever
-- is alive gets the chance to say so first. A clock that went back shortens no grace but its own.

if redis.replicate_commands then redis.replicate_commands() end

local call = redis.call
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local grace = tonumber(ARGV[3])
local count = call('ZCARD', KEYS[1])

local swept = call('HMGET', KEYS[2], 'at', 'until')
local last, frozen = tonumber(swept[1] or ''), tonumber(swept[2] or '0')
if not last or now - last > tonumber(ARGV[2]) then frozen = now + grace end
frozen = math.min(frozen, now + grace)
call('HSET', KEYS[2], 'at', string.format('%.0f', now), 'until', string.format('%.0f', frozen))

if now < frozen then return {now, count, {}} end
local due = call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now), 'LIMIT', 0, ARGV[1])
return {now, count, due}
