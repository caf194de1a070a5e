/** Reads a table as RFC 4180 says, by its grammar and not by how ours is written. */
export function parseCsv(text: string): string[][] {
  const rows: string[][] = [];
  let at = 0;
  const field = (): string => {
    if (text[at] !== '"') {
      const end = text.slice(at).search(/[,\r]/);
      const plain = text.slice(at, end === -1 ? undefined : at + end);
      if (/["\n]/.test(plain)) throw new Error(`a quote or line feed in a bare field: ${plain}`);
      at += plain.length;
      return plain;
    }
    let value = '';
    for (at += 1; ; at += 1) {
      if (at >= text.length) throw new Error('a field has no end');
      if (text[at] !== '"') value += text[at];
      else if (text[at + 1] === '"') {
        value += '"';
        at += 1;
      } else break;
    }
    at += 1;
    return value;
  };
  while (at < text.length) {
    const row = [field()];
    while (text[at] === ',') {
      at += 1;
      row.push(field());
    }
    if (text.slice(at, at + 2) !== '\r\n') throw new Error(`no end of a line at ${at}`);
    at += 2;
    rows.push(row);
  }
  return rows;
}

/** The rows by the names in the first of them. */
export function tableOf(text: string): Record<string, string>[] {
  const [names = [], ...rows] = parseCsv(text);
  return rows.map((row) => {
    if (row.length !== names.length) throw new Error('a row has not as many cells as the first');
    return Object.fromEntries(names.map((name, index) => [name, row[index] ?? '']));
  });
}
