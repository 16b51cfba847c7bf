-- Reads where the history of a namespace stands.
--
-- KEYS  1 rev  2 epoch  3 changes
-- Returns {epoch, revision, fingerprint of the newest change}

local last = redis.call('XREVRANGE', KEYS[3], '+', '-', 'COUNT', 1)[1]
local fingerprint = ''
if last then
  for i = 1, #last[2], 2 do
    if last[2][i] == 'f' then fingerprint = last[2][i + 1] end
  end
end
return {redis.call('GET', KEYS[2]) or '', tonumber(redis.call('GET', KEYS[1]) or '0'), fingerprint}
