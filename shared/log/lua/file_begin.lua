-- Counts a file that is about to be written against what its tenant may keep.
--
-- KEYS  as _lib.lua says of files, without the bytes
-- ARGV  1 now  2 file id  3 bytes to count for it  4 bytes that the tenant may keep  5 µs for writing it
-- Returns  {'OK'}  {'KEPT', its row}: it is there already  {'FULL', bytes that are counted}
--          {'AGAIN'}: more has expired than was swept, ask again
local now = now_us()
if not sweep_files(now) then return {'AGAIN'} end
local row = redis.call('HGET', KEYS[2], ARGV[2])
if row then return {'KEPT', row} end
local before = tonumber(redis.call('HGET', KEYS[3], ARGV[2]) or 0)
local others = tonumber(redis.call('HGET', KEYS[3], 'total') or 0) - before
if others + tonumber(ARGV[3]) > tonumber(ARGV[4]) then return {'FULL', int(others)} end
redis.call('ZADD', KEYS[1], int(now + tonumber(ARGV[5])), ARGV[2])
redis.call('HSET', KEYS[3], ARGV[2], ARGV[3], 'total', int(others + tonumber(ARGV[3])))
outlive(KEYS[1], tonumber(ARGV[5]))
outlive(KEYS[3], tonumber(ARGV[5]))
return {'OK'}
