-- Drops the oldest batches of decisions: those that are too old, and those that are too much.
--
-- KEYS  1 decisions  2 bytes in the log
-- ARGV  1 milliseconds to keep  2 bytes to keep  3 batches to drop at most
-- Returns how many were dropped

if redis.replicate_commands then redis.replicate_commands() end

local PAGE = 20 -- batches looked at together: a few MB at worst
local time = redis.call('TIME')
local oldest = time[1] * 1000 + math.floor(time[2] / 1000) - tonumber(ARGV[1])
local room, most = tonumber(ARGV[2]), tonumber(ARGV[3])
local bytes = tonumber(redis.call('GET', KEYS[2]) or '0')
local dropped, first_kept, from = 0, nil, '-'

while dropped < most and not first_kept do
  local page = redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', PAGE)
  if #page == 0 then break end
  for _, entry in ipairs(page) do
    local at = tonumber(string.match(entry[1], '^%d+'))
    if dropped >= most or (at >= oldest and bytes <= room) then
      first_kept = entry[1]
      break
    end
    bytes = bytes - #entry[2][2] - #entry[2][4]
    dropped = dropped + 1
    from = '(' .. entry[1]
  end
end
if dropped == 0 then return 0 end
if not first_kept then
  local rest = redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', 1)
  first_kept = rest[1] and rest[1][1]
end
if first_kept then
  redis.call('XTRIM', KEYS[1], 'MINID', '=', first_kept)
else
  redis.call('XTRIM', KEYS[1], 'MAXLEN', '=', '0')
  bytes = 0
end
redis.call('SET', KEYS[2], string.format('%.0f', math.max(bytes, 0)))
return dropped
