-- Reads what changed after a position, and the records as they are now, in one step.
--
-- KEYS  1 rev  2 epoch  3 changes  4.. collections, in the order of ARGV[6]..
-- ARGV  1 epoch  2 revision  3 fingerprint of the position
--       4 entries to read at most  5 a fresh epoch
--       6.. collection names
-- Returns {resync, epoch, revision, fingerprint, more, {collection, key, frame or nil, ..}}
--
-- When the store's history turns out to be another one than the caller's (the revision went back,
-- or the entry at the position differs) the store gets a new epoch, so that everybody who follows
-- the lost branch learns of it, whatever revision they are at.

if redis.replicate_commands then redis.replicate_commands() end

local call = redis.call
local epoch = call('GET', KEYS[2]) or ''
local head = tonumber(call('GET', KEYS[1]) or '0')
local position = tonumber(ARGV[2])

local function resync() return {1, epoch, 0, '', 0, {}} end
local function broken()
  if epoch ~= '' then
    epoch = ARGV[5]
    call('SET', KEYS[2], epoch)
  end
  return resync()
end
local function fields(entry)
  local found = {}
  for i = 1, #entry[2], 2 do found[entry[2][i]] = entry[2][i + 1] end
  return found
end

local from_nothing = position == 0 and ARGV[1] == ''
if not from_nothing and ARGV[1] ~= epoch then return resync() end
if head < position then return broken() end
if head == 0 then return {0, epoch, 0, '', 0, {}} end

local limit = tonumber(ARGV[4])
local entries = call('XRANGE', KEYS[3], ARGV[2] .. '-0', '+', 'COUNT', limit + 1)
local first = entries[1]
local fingerprint = ''
if position == 0 then
  if not first or first[1] ~= '1-0' then return resync() end
else
  if not first or first[1] ~= ARGV[2] .. '-0' then return resync() end
  fingerprint = fields(first).f
  if fingerprint ~= ARGV[3] then return broken() end
  table.remove(entries, 1)
end

local collections = {}
for i = 6, #ARGV do collections[ARGV[i]] = KEYS[i - 2] end
local seen, touched = {}, {}
for n, entry in ipairs(entries) do
  if n > limit then break end
  local change = fields(entry)
  position, fingerprint = tonumber(string.match(entry[1], '^%d+')), change.f
  for _, where in ipairs(cmsgpack.unpack(change.t)) do
    local name = where[1] .. ' ' .. where[2]
    local key = collections[where[1]]
    if key and not seen[name] then -- collections of a newer release are not ours to follow
      seen[name] = true
      touched[#touched + 1] = where[1]
      touched[#touched + 1] = where[2]
      touched[#touched + 1] = call('HGET', key, where[2])
    end
  end
end
return {0, epoch, position, fingerprint, position < head and 1 or 0, touched}
