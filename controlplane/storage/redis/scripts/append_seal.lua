-- Keeps a seal if it continues what was sealed.
--
-- KEYS  1 seals
-- ARGV  1 sequence of the entry before its first one  2 of its first  3 of its last
--       4 head before  5 head after  6 leaves  7 name of the key
-- Returns 1 if it was kept, 0 if somebody else has sealed meanwhile
--
-- The last id of a stream survives its entries: a seal that was removed is not made anew. The head
-- is compared as well: a store that fails over may have another seal of the same length.

if redis.replicate_commands then redis.replicate_commands() end

local call = redis.call
local sealed = '0'
if call('EXISTS', KEYS[1]) == 1 then
  local info = call('XINFO', 'STREAM', KEYS[1])
  for n = 1, #info, 2 do
    if info[n] == 'last-generated-id' then sealed = string.match(info[n + 1], '^%d+') end
  end
end
if sealed ~= ARGV[1] then return 0 end
if sealed ~= '0' then
  local newest = call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
  if not newest or string.match(newest[1], '^%d+') ~= sealed then return 0 end
  local head
  for n = 1, #newest[2], 2 do
    if newest[2][n] == 'h' then head = newest[2][n + 1] end
  end
  if head ~= ARGV[4] then return 0 end
end
call('XADD', KEYS[1], ARGV[3] .. '-0',
  'f', ARGV[2], 'p', ARGV[4], 'h', ARGV[5], 'l', ARGV[6], 'k', ARGV[7])
return 1
