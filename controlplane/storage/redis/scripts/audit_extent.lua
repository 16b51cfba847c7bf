-- Says from where to where the audit of a namespace reaches.
--
-- KEYS  1 rev  2 audit  3 seals
-- Returns {first entry that is stored or 0, newest revision, last sequence that was ever sealed}

local call = redis.call
local first = call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)[1]
local sealed = 0
if call('EXISTS', KEYS[3]) == 1 then
  local info = call('XINFO', 'STREAM', KEYS[3])
  for n = 1, #info, 2 do
    if info[n] == 'last-generated-id' then
      sealed = tonumber(string.match(info[n + 1], '^%d+'))
    end
  end
end
return {
  first and tonumber(string.match(first[1], '^%d+')) or 0,
  tonumber(call('GET', KEYS[1]) or '0'),
  sealed
}
