import { createDatabase } from '../support/database.ts';
import { describeEventLogContract } from './contract.ts';

describeEventLogContract('postgres', async () => {
  const database = await createDatabase();
  return { log: await database.openLog(), close: database.drop };
});
