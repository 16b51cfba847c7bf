-- Applies one transaction: replay check, then every condition, then every effect.
--
-- Nothing is written before the last check has passed, and nothing after it can fail: each key that
-- will be written has been read with a command of its type.
--
-- KEYS  1 rev  2 epoch  3 changes  4 audit  5 deadlines  6 the request's result
--       7 counts  8.. collections and histories, addressed by the steps
-- ARGV  1 plan: MessagePack of {is there a request, steps, is it to be on disk}
--       2 fingerprint of this commit  3 touched: MessagePack of {{collection, key}..}
--       4 audit entry (JSON)  5 digest of the request  6 answer to remember
--       7 change entries to keep  8 milliseconds to remember the request
--       9.. values, addressed by the steps
-- A step is an array; `expected` is false for "whatever", and 0 stands for "absent":
--       {1 put,     KEYS index, record key, expected revision, expected generation, ARGV index, fresh}
--       {2 delete,  KEYS index, record key, expected revision, expected generation}
--       {3 require, KEYS index, record key, expected revision, expected generation}
--       {4 append, KEYS index, ARGV index, sequence within this commit, entries to keep}
--       {5 set deadline, instance id, milliseconds}
--       {6 clear deadline, instance id}
--       {7 require expired, instance id}
--       {8 count, counter, delta, what it must not be above afterwards}
--       {9 reset, counter}
--       {10 clock, earliest milliseconds since 1970, the first that are too late or 0}
-- Returns {0, revision, ms} committed; {1, revision, ms, answer} replayed;
--         {2, step, revision, generation} condition failed, of a count {2, step, its value, 0};
--         {3} request id reused
-- Numbers stay below 2^53, where Lua's doubles are exact; string.format keeps all their digits.

if redis.replicate_commands then redis.replicate_commands() end -- Redis 6.2 may need to be told

local call, format = redis.call, string.format
local plan = cmsgpack.unpack(ARGV[1])
local steps = plan[2]

if plan[1] then
  local known = call('GET', KEYS[6])
  if known then
    local result = cmsgpack.unpack(known)
    if result[1] ~= ARGV[5] then return {3} end
    if plan[3] then
      -- WAITAOF waits for the newest write of its connection, and this one has made none.
      call('SET', KEYS[6], known, 'KEEPTTL')
    end
    return {1, result[2], result[3], result[4]}
  end
end

local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- Records as they are now, and as the effects leave them: index .. key -> {rev, gen, created}.
local records = {}
local function record(key_index, key)
  local name = key_index .. ' ' .. key
  local found = records[name]
  if not found then
    found = {0, 0, false}
    local frame = call('HGET', KEYS[key_index], key)
    if frame then
      local rev, gen, created = string.match(frame, '^(%d+) (%d+) %d+ (%d+)\n')
      if not rev then return redis.error_reply('ERR damaged record ' .. key) end
      found = {tonumber(rev), tonumber(gen), created}
    end
    records[name] = found
  end
  return found
end

-- Counters that the steps name: counter -> {value now, as the steps leave it}.
local counters = {}

for i, step in ipairs(steps) do
  local op = step[1]
  if op <= 3 then
    local current = record(step[2], step[3])
    if current.err then return current end
    if (step[4] and step[4] ~= current[1]) or (step[5] and step[5] ~= current[2]) then
      return {2, i - 1, current[1], current[2]}
    end
  elseif op == 4 then
    call('XLEN', KEYS[step[2]])
  elseif op == 10 then
    if now < step[2] or (step[3] > 0 and now >= step[3]) then return {2, i - 1, 0, 0} end
  elseif op >= 8 then
    local counter = counters[step[2]]
    if not counter then
      local value = tonumber(call('HGET', KEYS[7], step[2]) or '0')
      if not value then return redis.error_reply('ERR damaged counter ' .. step[2]) end
      counter = {value, value}
      counters[step[2]] = counter
    end
    local total = 0
    if op == 8 then
      total = counter[2] + step[3]
      if total < 0 or total > step[4] then return {2, i - 1, counter[1], 0} end
    end
    counter[2] = total
  else
    local deadline = call('ZSCORE', KEYS[5], step[2])
    if op == 7 and not (deadline and tonumber(deadline) <= now) then
      return {2, i - 1, 0, 0}
    end
  end
end
call('XLEN', KEYS[3])
call('XLEN', KEYS[4])

if not call('GET', KEYS[1]) then
  -- The first commit; or the counter was lost, and the streams would refuse to start over.
  local last = 0
  for i = 3, 4 do
    if call('EXISTS', KEYS[i]) == 1 then
      local info = call('XINFO', 'STREAM', KEYS[i])
      for n = 1, #info, 2 do
        if info[n] == 'last-generated-id' then
          last = math.max(last, tonumber(string.match(info[n + 1], '^%d+')))
        end
      end
    end
  end
  call('SET', KEYS[2], ARGV[2])
  if last > 0 then call('SET', KEYS[1], format('%.0f', last)) end
end

local revision = call('INCR', KEYS[1])
local rev, at = format('%.0f', revision), format('%.0f', now)
local id = rev .. '-0'

for _, step in ipairs(steps) do
  local op = step[1]
  if op == 1 then
    local current = record(step[2], step[3])
    if step[7] or current[1] == 0 then
      current[2], current[3] = revision, at
    end
    current[1] = revision
    local header = rev .. ' ' .. format('%.0f', current[2]) .. ' ' .. at .. ' ' .. current[3]
    call('HSET', KEYS[step[2]], step[3], header .. '\n' .. ARGV[step[6]])
  elseif op == 2 then
    call('HDEL', KEYS[step[2]], step[3])
    records[step[2] .. ' ' .. step[3]] = {0, 0, false}
  elseif op == 4 then
    call('XADD', KEYS[step[2]], 'MAXLEN', '=', step[5], rev .. '-' .. step[4],
      'at', at, 'v', ARGV[step[3]])
  elseif op == 5 then
    call('ZADD', KEYS[5], format('%.0f', now + step[3]), step[2])
  elseif op == 6 then
    call('ZREM', KEYS[5], step[2])
  end
end
for name, counter in pairs(counters) do
  if counter[2] == 0 then
    call('HDEL', KEYS[7], name)
  else
    call('HSET', KEYS[7], name, format('%.0f', counter[2]))
  end
end

call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[7], id, 'f', ARGV[2], 'at', at, 't', ARGV[3])
call('XADD', KEYS[4], id, 'at', at, 'e', ARGV[4])
if plan[1] then
  call('SET', KEYS[6], cmsgpack.pack({ARGV[5], revision, now, ARGV[6]}), 'PX', ARGV[8])
end
return {0, revision, now}
