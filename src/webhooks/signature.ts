import assert from 'node:assert/strict';
import { createHmac, type KeyObject } from 'node:crypto';

/** A secret to sign with; as a `KeyObject` it is imported once and never printed by accident. */
type SigningKey = Buffer | KeyObject;

type Delivery = Readonly<{
  /** The `webhook-id`: the same in every attempt, and without a full stop. */
  id: string;
  /** The `webhook-timestamp`: when this attempt is made. */
  timestampSeconds: number;
  /** Exactly what is sent. */
  body: Buffer | string;
  /** Newest first; more than one while a rotation lasts. */
  secrets: readonly SigningKey[];
}>;

/**
 * The header `webhook-signature` of one attempt (Standard Webhooks 1.0.0, symmetric): for each secret
 * `v1,` and the HMAC-SHA-256 of `{id}.{timestamp}.{body}` in base64, a space between.
 */
export function signDelivery({ id, timestampSeconds, body, secrets }: Delivery): string {
  // A full stop in the id would let one delivery's signature fit another's content.
  assert(id !== '' && !id.includes('.'), 'the id of a delivery has no full stop');
  assert(Number.isSafeInteger(timestampSeconds), 'a timestamp is in whole seconds');
  assert(secrets.length > 0, 'a delivery is signed');
  const head = `${id}.${timestampSeconds}.`;
  return secrets
    .map(
      (secret) => `v1,${createHmac('sha256', secret).update(head).update(body).digest('base64')}`,
    )
    .join(' ');
}
