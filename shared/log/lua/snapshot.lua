-- Stores the snapshot of a turn that ended inside a script, so that its events may expire.
--
-- KEYS  1 turn  2 events  3 private  4 ended
-- ARGV  1 now  2 member  3 snapshot  4 the hash's field for it  5 how long to keep the events, in ms
-- Returns  'OK'  'ACTIVE' the turn has not ended  'GONE'
-- The first snapshot stays: a turn that has ended never changes.
local turn = fields(KEYS[1], 'status', 'snapshot', 'snapshot_blob', 'final', 'final_blob')
if not turn.status then
  redis.call('ZREM', KEYS[4], ARGV[2])
  return 'GONE'
end
if not TERMINAL[turn.status] then return 'ACTIVE' end
if turn.snapshot or turn.snapshot_blob or turn.final or turn.final_blob then
  redis.call('ZREM', KEYS[4], ARGV[2])
  return 'OK'
end
redis.call('HSET', KEYS[1], ARGV[4], ARGV[3])
redis.call('PEXPIRE', KEYS[2], ARGV[5])
clear_private(KEYS[3], turn.status, ARGV[5])
redis.call('ZREM', KEYS[4], ARGV[2])
return 'OK'
