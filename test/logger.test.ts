import pg from 'pg';
import { describe, expect, it } from 'vitest';
import { createLogger } from '../src/logger.ts';

describe('the log', () => {
  const key = `nmg_${'ab12'.repeat(16)}`;
  const lineOf = (write: (logger: ReturnType<typeof createLogger>) => void): string => {
    const lines: string[] = [];
    write(createLogger('trace', { write: (line) => lines.push(line) }));
    return lines.join('');
  };

  it('is JSON lines with a readable time', () => {
    const line = JSON.parse(lineOf((logger) => logger.info({ a: 1 }, 'hello')));
    expect(line).toMatchObject({ level: 30, a: 1, msg: 'hello' });
    expect(line.time).toMatch(/^\d{4}-\d\d-\d\dT/);
  });

  it.each([
    ['a message', (log: any) => log.error(`bad key ${key}`)],
    ['a member', (log: any) => log.error({ key }, 'x')],
    ['a header', (log: any) => log.error({ headers: { 'x-api-key': key } }, 'x')],
    ['an error', (log: any) => log.error({ err: new Error(`for ${key}`) }, 'x')],
    ['a nested text', (log: any) => log.error({ a: { b: [`/path?k=${key}`] } }, 'x')],
  ])('never holds a key that stands in %s', (_, write) => {
    const line = lineOf(write);
    expect(line).not.toContain(key.slice(0, 20));
    expect(line).toContain('redacted');
  });

  it('never holds the password of a database URL', () => {
    const line = lineOf((log) => log.error('postgres://mailguard:s3cret@localhost/x failed'));
    expect(line).not.toContain('s3cret');
  });

  it('never holds what a row held that the database refused', () => {
    const refused = Object.assign(new pg.DatabaseError('duplicate key', 0, 'error'), {
      code: '23505',
      constraint: 'credentials_pkey',
      detail: 'Key (subject)=(anna@example.com) already exists.',
      where: 'COPY credentials, line 1: "anna@example.com"',
      internalQuery: "select 'anna@example.com'",
    });
    const several = new AggregateError([refused], 'two went wrong');
    for (const err of [refused, several]) {
      const line = lineOf((log) => log.error({ err }, 'x'));
      expect(line).not.toContain('anna');
      expect(line).toContain('credentials_pkey');
    }
  });

  it('says nothing of values where the database told none', () => {
    const err = new pg.DatabaseError('deadlock detected', 0, 'error');
    expect(lineOf((log) => log.error({ err }, 'x'))).not.toContain('redacted');
  });
});
