-- Prolongs deadlines and publishes beats.
--
-- KEYS  1 deadlines  2 beats
-- ARGV  1 deadlines: MessagePack of {{milliseconds, {instance id..}}..}
--       2 the caller's replica id  3 packed beats, or ''  4 stream entries to keep
-- Returns the store's time in milliseconds
--
-- XX: who has no deadline gets none (gone, lost). GT: a deadline is never shortened.

if redis.replicate_commands then redis.replicate_commands() end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local CHUNK = 1000 -- ids per ZADD; Lua passes at most about 8,000 arguments to a call

for _, group in ipairs(cmsgpack.unpack(ARGV[1])) do
  local score, ids = string.format('%.0f', now + group[1]), group[2]
  for start = 1, #ids, CHUNK do
    local args, n = {}, 0
    for i = start, math.min(start + CHUNK - 1, #ids) do
      args[n + 1], args[n + 2] = score, ids[i]
      n = n + 2
    end
    redis.call('ZADD', KEYS[1], 'XX', 'GT', unpack(args))
  end
end
if ARGV[3] ~= '' then
  redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[4], '*', 'r', ARGV[2], 'b', ARGV[3])
end
return now
