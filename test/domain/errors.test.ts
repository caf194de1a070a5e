import { describe, expect, it } from 'vitest';
import { DomainError } from '../../src/domain/errors.ts';

describe('DomainError', () => {
  it('is told from a bug in a log', () => {
    const refusal = new DomainError('not_found', 'No such API key');
    expect(String(refusal)).toBe('DomainError: No such API key');
    expect(refusal).toBeInstanceOf(Error);
  });

  it('carries its code, and details for its caller where there are any', () => {
    expect(new DomainError('stale', 'It was changed')).toMatchObject({
      code: 'stale',
      details: null,
    });
    expect(new DomainError('stale', 'It was changed', { etag: '7' }).details).toEqual({
      etag: '7',
    });
  });
});
