import { readdirSync, readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';

const IMPORT = /import \{([^}]*)\} from '(?:\.\.\/)+dist\/([^']+)\.js'/g;

/** The benchmarks are run by hand, and no compiler reads them. */
const files = ['bench', 'bench/lib'].flatMap((folder) =>
  readdirSync(folder)
    .filter((name) => name.endsWith('.js'))
    .map((name) => `${folder}/${name}`),
);
const imports = files.flatMap((file) =>
  [...readFileSync(file, 'utf8').matchAll(IMPORT)].map(([, names = '', module = '']) => ({
    file,
    module,
    names: names
      .split(',')
      .map((name) => name.trim().replace(/ as .*/, ''))
      .filter((name) => name !== ''),
  })),
);

describe('what the benchmarks import from the program', () => {
  it.each(imports)('is there: $file from $module', async ({ module, names }) => {
    const { href } = new URL(`../src/${module}.ts`, import.meta.url);
    const exported = await import(/* @vite-ignore */ href);
    expect(names.filter((name) => !(name in exported))).toEqual([]);
  });

  it('is found at all', () => {
    expect(imports.length).toBeGreaterThan(10);
  });
});
