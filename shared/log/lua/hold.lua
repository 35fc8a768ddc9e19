-- Takes a lock, or holds on to it.
--
-- KEYS  1 lock
-- ARGV  1 now (not used)  2 the holder's token  3 for how long, in milliseconds
-- Returns  1: it is the holder's  0: another has it
-- It writes first, so that a store that is full refuses it to everybody and not only to who would get it.
if redis.call('SET', KEYS[1], ARGV[2], 'NX', 'PX', ARGV[3]) then return 1 end
if redis.call('GET', KEYS[1]) ~= ARGV[2] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
