import { memoryEventLog } from '../../src/eventlog/memory.ts';
import { describeEventLogContract } from './contract.ts';

describeEventLogContract('memory', async () => {
  const log = memoryEventLog();
  return { log, close: () => log.close() };
});
