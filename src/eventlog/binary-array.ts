type Element = Readonly<{
  text: string | null;
  uuid: string | null;
  int4: number;
  int8: bigint;
}>;
type Kind = keyof Element;

const OID: Readonly<Record<Kind, number>> = { text: 25, uuid: 2950, int4: 23, int8: 20 };
const FIXED_BYTES: Readonly<Record<Kind, number | null>> = {
  text: null,
  uuid: 16,
  int4: 4,
  int8: 8,
};
const HEADER_BYTES = 20;

/**
 * A one-dimensional PostgreSQL array in binary form (`array_recv`), which `pg` sends as it is: text
 * form would escape every quote of every line. Layout: dimensions, has-nulls flag, element type,
 * length, lower bound, then length and bytes per element, -1 for null.
 */
export function encodeArray<K extends Kind>(kind: K, elements: readonly Element[K][]): Buffer {
  const fixed = FIXED_BYTES[kind];
  let bytes = HEADER_BYTES;
  let hasNulls = 0;
  for (const element of elements) {
    bytes += 4;
    if (element === null) hasNulls = 1;
    else bytes += fixed ?? Buffer.byteLength(element as string);
  }
  const buffer = Buffer.allocUnsafe(bytes);
  buffer.writeInt32BE(elements.length === 0 ? 0 : 1, 0);
  buffer.writeInt32BE(hasNulls, 4);
  buffer.writeInt32BE(OID[kind], 8);
  if (elements.length === 0) return buffer.subarray(0, 12);
  buffer.writeInt32BE(elements.length, 12);
  buffer.writeInt32BE(1, 16);
  let at = HEADER_BYTES;
  for (const element of elements) {
    if (element === null) {
      at = buffer.writeInt32BE(-1, at);
      continue;
    }
    const written = writeElement(buffer, kind, element, at + 4);
    buffer.writeInt32BE(written, at);
    at += 4 + written;
  }
  return buffer;
}

function writeElement(buffer: Buffer, kind: Kind, element: unknown, at: number): number {
  switch (kind) {
    case 'text':
      return buffer.write(element as string, at, 'utf8');
    case 'uuid':
      return buffer.write((element as string).replaceAll('-', ''), at, 'hex');
    case 'int4':
      return buffer.writeInt32BE(element as number, at) - at;
    case 'int8':
      return buffer.writeBigInt64BE(element as bigint, at) - at;
  }
}
