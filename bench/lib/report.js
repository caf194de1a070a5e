import { cpus, loadavg, totalmem } from 'node:os';
import { show, showRange } from './stats.js';

const SHOWN_SETTINGS = [
  'server_version',
  'shared_buffers',
  'fsync',
  'synchronous_commit',
  'wal_compression',
  'max_wal_size',
  'data_checksums',
  'jit',
];

/**
 * Collects what a benchmark finds: readable as it comes, and as one line of JSON at the end.
 * @param {string} name
 */
export function openReport(name) {
  const load = showLoad();
  const found = {
    bench: name,
    at: new Date().toISOString(),
    conditions: {},
    figures: {},
    targets: [],
  };
  console.log(`\n== ${name} ==`);
  return {
    /** Under what everything below was measured. */
    async conditions(db, more = {}) {
      found.conditions = { ...machine(load), ...(await settingsOf(db)), ...more };
      for (const [key, value] of Object.entries(found.conditions))
        console.log(`  ${key}: ${value}`);
    },
    note: (text) => console.log(`  ${text}`),
    figure(key, value) {
      found.figures[key] = value;
    },
    table(title, header, rows) {
      console.log(`\n${title}`);
      printTable(header, rows);
    },
    /** One promise: `at least` or `at most` a number. */
    target(text, value, kind, bound) {
      const met = kind === 'at least' ? value >= bound : value <= bound;
      found.targets.push({ text, value: Number(value.toPrecision(4)), kind, bound, met });
      console.log(
        `  target ${text}: ${kind} ${show(bound)}, is ${show(value)}: ${met ? 'met' : 'missed'}`,
      );
    },
    end() {
      found.conditions.load_average_at_end = showLoad();
      console.log(`  load_average_at_end: ${found.conditions.load_average_at_end}`);
      console.log(`\n${JSON.stringify(found)}`);
    },
  };
}

/** A median with its range, ready for a table. */
export const cell = showRange;

const showLoad = () =>
  loadavg()
    .map((value) => value.toFixed(2))
    .join(' ');

function machine(load) {
  const [cpu] = cpus();
  return {
    cpu: cpu?.model.trim() ?? 'unknown',
    cores: cpus().length,
    memory: `${Math.round(totalmem() / 2 ** 30)} GiB`,
    node: process.version,
    load_average_at_start: load,
  };
}

async function settingsOf(db) {
  if (db === null) return {};
  const { rows } = await db.query(
    'select name, current_setting(name) as value from unnest($1::text[]) name',
    [SHOWN_SETTINGS],
  );
  const settings = Object.fromEntries(rows.map(({ name, value }) => [name, value]));
  const { server_version, ...others } = settings;
  const listed = Object.entries(others).map(([name, value]) => `${name}=${value}`);
  return { postgresql: `${server_version} (embedded)`, postgresql_settings: listed.join(' ') };
}

function printTable(header, rows) {
  const lines = [header, ...rows.map((row) => row.map((value) => show(value)))];
  const widths = header.map((_, column) => Math.max(...lines.map((line) => line[column].length)));
  for (const line of lines) {
    const cells = line.map((text, column) =>
      column === 0 ? text.padEnd(widths[column]) : text.padStart(widths[column]),
    );
    console.log(`  ${cells.join('  ')}`);
  }
}
