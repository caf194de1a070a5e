import { describe, expect, it } from 'vitest';
import { leafHash } from '../../src/integrity/leaf.ts';

describe('leafHash', () => {
  // The leaves of the certificate transparency tests (RFC 6962 section 2.1).
  it.each([
    ['', '6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d'],
    ['00', '96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7'],
    ['10', '0298d122906dcfc10892cb53a73992fc5b9f493ea4c9badb27b791b4127a7fe7'],
  ])('RFC 6962: the leaf hash of the bytes %j', (hex, hash) => {
    expect(leafHash(Buffer.from(hex, 'hex')).toString('hex')).toBe(hash);
  });

  it('RFC 6962: text is hashed as its UTF-8 bytes', () => {
    expect(leafHash('Möbius')).toEqual(leafHash(Buffer.from('Möbius', 'utf8')));
  });
});
