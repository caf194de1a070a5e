import { createSecretKey } from 'node:crypto';
import fc from 'fast-check';
import { Webhook } from 'standardwebhooks';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import {
  issueWebhookSecret,
  parseWebhookSecret,
  secretFingerprint,
} from '../../src/secret-text.ts';
import { signDelivery } from '../../src/webhooks/signature.ts';

/** Published with Standard Webhooks 1.0.0. The body has a space: what is sent is signed. */
const VECTOR = {
  secret: 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw',
  id: 'msg_p5jXN8AQM9LWM0D4loKWxJek',
  timestampSeconds: 1_614_265_330,
  body: '{"test": 2432232314}',
  signature: 'v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=',
} as const;

const bytesOf = (secret: string): Buffer => {
  const bytes = parseWebhookSecret(secret);
  if (bytes === null) throw new Error('not a secret');
  return bytes;
};

const OLD = `whsec_${Buffer.alloc(32, 1).toString('base64')}`;
const NEW = `whsec_${Buffer.alloc(32, 2).toString('base64')}`;
const OTHER = `whsec_${Buffer.alloc(32, 3).toString('base64')}`;

const NOW_SECONDS = 1_795_000_000;
// The reference library reads the clock to judge the age of a delivery.
beforeAll(() => vi.useFakeTimers({ toFake: ['Date'], now: NOW_SECONDS * 1_000 }));
afterAll(() => vi.useRealTimers());

const delivery = { id: 'msg_1', body: '{"type":"message.quarantined"}' } as const;

function sent(secrets: readonly string[], timestampSeconds = NOW_SECONDS) {
  return {
    'webhook-id': delivery.id,
    'webhook-timestamp': String(timestampSeconds),
    'webhook-signature': signDelivery({
      ...delivery,
      timestampSeconds,
      secrets: secrets.map(bytesOf),
    }),
  };
}
const verify = (secret: string, headers: Record<string, string>, body: string = delivery.body) =>
  new Webhook(secret).verify(body, headers);

describe('signDelivery', () => {
  it('makes the published signature, of text and of bytes, with a key in either form', () => {
    const { secret, signature, ...vector } = VECTOR;
    const bytes = bytesOf(secret);
    for (const body of [vector.body, Buffer.from(vector.body)]) {
      for (const key of [bytes, createSecretKey(bytes)]) {
        expect(signDelivery({ ...vector, body, secrets: [key] })).toBe(signature);
      }
    }
  });

  it('makes what the reference library makes, for any body, id and secret', () => {
    const secret = fc.uint8Array({ minLength: 24, maxLength: 64 }).map((a) => Buffer.from(a));
    const id = fc.string({ minLength: 1 }).filter((text) => !text.includes('.'));
    const seconds = fc.nat(4_000_000_000);
    const body = fc.string({ unit: 'grapheme' });
    fc.assert(
      fc.property(secret, id, seconds, body, (bytes, id, timestampSeconds, body) => {
        const reference = new Webhook(`whsec_${bytes.toString('base64')}`);
        expect(signDelivery({ id, timestampSeconds, body, secrets: [bytes] })).toBe(
          reference.sign(id, new Date(timestampSeconds * 1_000), body),
        );
      }),
      { seed: 20_261_125, numRuns: 300 },
    );
  });

  it('is verified by the reference library', () => {
    expect(verify(NEW, sent([NEW]))).toEqual({ type: 'message.quarantined' });
  });

  it('signs with both secrets during a rotation, the newest first', () => {
    const headers = sent([NEW, OLD], 1_700_000_000);
    const [first, second, ...more] = headers['webhook-signature'].split(' ');
    expect(first).toBe(sent([NEW], 1_700_000_000)['webhook-signature']);
    expect(second).toBe(sent([OLD], 1_700_000_000)['webhook-signature']);
    expect(more).toEqual([]);
  });

  it('is verified during a rotation by who has either secret, and by nobody else', () => {
    const headers = sent([NEW, OLD]);
    expect(() => verify(NEW, headers)).not.toThrow();
    expect(() => verify(OLD, headers)).not.toThrow();
    expect(() => verify(OTHER, headers)).toThrow('No matching signature');
  });

  it('is found among wrong ones and unknown versions', () => {
    const headers = sent([NEW]);
    const right = headers['webhook-signature'];
    const wrong = sent([OTHER])['webhook-signature'];
    const list = [wrong, right.replace('v1,', 'v2,'), right, wrong].join(' ');
    expect(() => verify(NEW, { ...headers, 'webhook-signature': list })).not.toThrow();
  });

  it.each(['webhook-id', 'webhook-timestamp', 'webhook-signature'] as const)(
    'is nothing without %s',
    (name) => {
      const { [name]: _, ...headers } = sent([NEW]);
      expect(() => verify(NEW, headers)).toThrow('Missing required headers');
    },
  );

  it.each([-301, 301])('is not accepted with a time %i seconds off', (offset) => {
    expect(() => verify(NEW, sent([NEW], NOW_SECONDS + offset))).toThrow();
  });

  it.each([-300, 300])('is accepted with a time %i seconds off', (offset) => {
    expect(() => verify(NEW, sent([NEW], NOW_SECONDS + offset))).not.toThrow();
  });

  it.each([
    ['another body', (h: Headers) => [h, '{"type": "message.quarantined"}']],
    ['another id', (h: Headers) => [{ ...h, 'webhook-id': 'msg_2' }]],
    ['another time', (h: Headers) => [{ ...h, 'webhook-timestamp': String(NOW_SECONDS - 7) }]],
    ['a time that is no number', (h: Headers) => [{ ...h, 'webhook-timestamp': 'now' }]],
    ['a part of it', (h: Headers) => [signed(h, h['webhook-signature'].slice(0, -4))]],
    ['an empty signature', (h: Headers) => [signed(h, 'v1,')]],
    ['no version', (h: Headers) => [signed(h, h['webhook-signature'].slice(3))]],
  ] as const)('fits nothing else: %s', (_, change) => {
    const [headers, body] = change(sent([NEW]));
    expect(() => verify(NEW, headers as Headers, body as string | undefined)).toThrow();
  });

  it('refuses what can only be a mistake of ours', () => {
    const secrets = [bytesOf(NEW)];
    const signed = { ...delivery, timestampSeconds: 1, secrets };
    expect(() => signDelivery({ ...signed, id: 'a.b' })).toThrow();
    expect(() => signDelivery({ ...signed, id: '' })).toThrow();
    expect(() => signDelivery({ ...signed, timestampSeconds: 1.5 })).toThrow();
    expect(() => signDelivery({ ...signed, secrets: [] })).toThrow();
  });
});

type Headers = ReturnType<typeof sent>;
const signed = (headers: Headers, signature: string) => ({
  ...headers,
  'webhook-signature': signature,
});

describe('issueWebhookSecret', () => {
  it('writes 32 random bytes, which can be read again', () => {
    const secret = issueWebhookSecret((bytes) => Buffer.alloc(bytes, 0xab));
    expect(secret).toMatch(/^whsec_[A-Za-z0-9+/]{43}=$/);
    expect(parseWebhookSecret(secret)).toEqual(Buffer.alloc(32, 0xab));
  });

  it('never writes the same one twice', () => {
    expect(issueWebhookSecret()).not.toBe(issueWebhookSecret());
  });
});

describe('parseWebhookSecret', () => {
  const written = (bytes: number) => `whsec_${Buffer.alloc(bytes, 0xff).toString('base64')}`;

  it('reads 24 to 64 bytes', () => {
    for (const bytes of [24, 25, 26, 32, 63, 64]) {
      expect(parseWebhookSecret(written(bytes))).toEqual(Buffer.alloc(bytes, 0xff));
    }
    for (const bytes of [0, 1, 23, 65, 100]) expect(parseWebhookSecret(written(bytes))).toBeNull();
  });

  it.each([
    ['nothing', ''],
    ['the prefix alone', 'whsec_'],
    ['no prefix', written(32).slice(6)],
    ['another prefix', written(32).replace('whsec_', 'whsk_')],
    ['the prefix in capitals', written(32).replace('whsec_', 'WHSEC_')],
    ['no padding', written(32).slice(0, -1)],
    ['too much padding', `${written(32)}=`],
    ['the alphabet for URLs', written(32).replaceAll('/', '_')],
    ['a space before', ` ${written(32)}`],
    ['a line end behind', `${written(32)}\n`],
    ['a space within', written(32).replace('whsec_//', 'whsec_/ /')],
    ['bits that no byte has', written(32).replace('8=', '9=')],
    ['no base64', `whsec_${'?'.repeat(44)}`],
  ])('refuses %s', (_, text) => expect(parseWebhookSecret(text)).toBeNull());
});

describe('secretFingerprint', () => {
  it('is the first eight hex digits of SHA-256', () => {
    expect(secretFingerprint(Buffer.from('abc'))).toBe('ba7816bf');
  });
});
