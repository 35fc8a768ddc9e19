-- What a shard has for the reaper now, the longest overdue first.
--
-- KEYS  1 due  2 leases  3 limits  4 ended
-- ARGV  1 now  2 at most so many of each
-- Returns  nil where there is nothing, else {due, leases that have lapsed, over a limit, ended without a snapshot}
if redis.call('EXISTS', unpack(KEYS)) == 0 then return nil end -- at rest, most shards are so
local now = int(now_us())
local found, total = {}, 0
for i = 1, 4 do
  found[i] = redis.call('ZRANGEBYSCORE', KEYS[i], '-inf', now, 'LIMIT', 0, ARGV[2])
  total = total + #found[i]
end
return total > 0 and found or nil
