import type { IncomingMessage } from 'node:http';
import { Readable } from 'node:stream';
import { describe, expect, it } from 'vitest';
import { type Received, receive } from '../../src/cli/export-stream.ts';

const line = (position: number) => `{"line":{"position":"${position}"},"disclosures":[]}\n`;
const trailer = (count: number, last: string | null) =>
  `{"trailer":{"count":${count},"last_position":${JSON.stringify(last)},"next_cursor":"c"}}\n`;

const take = async (
  chunks: readonly string[],
  received: Received = { count: 0, first: null, last: null },
) => {
  const written: string[] = [];
  const response = Readable.from(chunks.map((text) => Buffer.from(text))) as IncomingMessage;
  const write = async (lines: Buffer) => void written.push(lines.toString());
  const error = await receive(response, { received, write }).then(
    () => null,
    (caught: Error) => caught.message,
  );
  return { error, text: written.join(''), received };
};

describe('the lines of an export', () => {
  const whole = line(1) + line(2) + trailer(2, '2');

  it.each([1, 7, 30, 47, 48, 1_000])('come whole in chunks of %i bytes', async (size) => {
    const chunks = whole.match(new RegExp(`[\\s\\S]{1,${size}}`, 'g')) ?? [];
    expect(await take(chunks)).toEqual({
      error: null,
      text: line(1) + line(2),
      received: { count: 2, first: '1', last: '2' },
    });
  });

  it('may be none', async () =>
    expect(await take([trailer(0, null)])).toMatchObject({ error: null, text: '' }));

  it('without a trailer were cut, and only whole ones are kept', async () => {
    const { error, text, received } = await take([line(1), line(2).slice(0, 9)]);
    expect({ error, text, received }).toEqual({
      error: 'The connection was cut.',
      text: line(1),
      received: { count: 1, first: '1', last: '1' },
    });
  });

  it('count on from an earlier connection', async () => {
    const received = { count: 2, first: '1', last: '2' };
    await take([line(3) + trailer(1, '3')], received);
    expect(received).toEqual({ count: 3, first: '1', last: '3' });
  });

  it.each([
    [
      'fewer lines than the trailer counts',
      [line(1), trailer(2, '1')],
      'counts 2 lines, 1 arrived',
    ],
    ['another last line', [line(1), trailer(1, '9')], 'counts 1 lines, 1 arrived'],
    ['something behind the trailer', [trailer(0, null), line(1)], 'something follows its trailer'],
    ['a line that is no JSON', ['nonsense\n'], 'a line is no JSON'],
    ['an empty line', ['\n'], 'a line is no JSON'],
    ['a line without a position', ['{"line":{}}\n'], 'a line has no position'],
  ])('are refused for %s', async (_, chunks, problem) => {
    expect((await take(chunks)).error).toContain(problem);
  });

  it('are refused when they repeat what was there before', async () => {
    const received = { count: 2, first: '1', last: '2' };
    const { error } = await take([line(2) + trailer(1, '2')], received);
    expect(error).toContain('repeats position 2');
  });
});
