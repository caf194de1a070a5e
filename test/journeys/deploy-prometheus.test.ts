import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parse, stringify } from 'yaml';
import { EXPORTS_MAX } from '../../src/api/audit-export.ts';
import { startTestGateway, type TestGateway } from '../support/gateway.ts';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));
const RULES = join(ROOT, 'deploy/prometheus/mailguard.rules.yml');
const read = (path: string) => readFileSync(join(ROOT, path), 'utf8');

type Rule = Readonly<{
  alert: string;
  expr: string;
  labels: Readonly<{ severity: string }>;
  annotations: Readonly<{ summary: string; description: string; runbook: string }>;
}>;
type Panel = Readonly<{
  id: number;
  type: string;
  title: string;
  gridPos: Readonly<{ x: number; y: number; w: number; h: number }>;
  datasource?: Readonly<{ uid: string }>;
  targets?: readonly Readonly<{ refId: string; expr: string }>[];
}>;

const rules: readonly Rule[] = parse(readFileSync(RULES, 'utf8')).groups.flatMap(
  ({ rules: own }: { rules: Rule[] }) => own,
);
const dashboard: Readonly<{ schemaVersion: number; panels: readonly Panel[] }> = JSON.parse(
  read('deploy/grafana/mailguard.json'),
);
/** As Grafana would ask them. */
const asked = dashboard.panels
  .flatMap(({ targets = [] }) => targets.map(({ expr }) => expr))
  .map((expr) => expr.replaceAll('$__rate_interval', '5m').replaceAll('$instance', '.*'));

const hasPromtool = spawnSync('promtool', ['--version']).status === 0;
if (!hasPromtool)
  console.warn('promtool is not installed: rules and dashboard are not tried by it');

describe('rules and dashboard', () => {
  let t: TestGateway;
  beforeAll(async () => {
    t = await startTestGateway();
  });
  afterAll(() => t.close());

  it('ask only for metrics that a gateway gives', async () => {
    const { text } = await t.send('GET', '//metrics', { key: null });
    const given = new Set(
      [...text.matchAll(/^# TYPE (\S+) (\S+)$/gm)].flatMap(([, name = '', type]) =>
        type === 'histogram' ? [`${name}_bucket`, `${name}_count`, `${name}_sum`] : [name],
      ),
    );
    const names = [...rules.map(({ expr }) => expr), ...asked].flatMap(
      (expr) => expr.match(/\b(?:mailguard|nodejs|process)_\w+/g) ?? [],
    );
    expect(names.length).toBeGreaterThan(rules.length);
    expect([...new Set(names)].filter((name) => !given.has(name))).toEqual([]);
  });

  it('can tell a gateway that is ready from one that is not', async () => {
    const value = async () =>
      /^mailguard_ready (\d)$/m.exec((await t.send('GET', '//metrics', { key: null })).text)?.[1];
    expect(await value()).toBe('1');
    const { context } = t.gateway;
    const unready = context.unready;
    (context as { unready: typeof unready }).unready = async () => ['the database is away'];
    expect(await value()).toBe('0');
    (context as { unready: typeof unready }).unready = unready;
  });
});

describe('the alert rules', () => {
  it('each say how bad it is, what it is, what to do, and where more is said', () => {
    const headings = read('docs/operations.md')
      .split('\n')
      .filter((line) => line.startsWith('#'))
      .map((line) =>
        line
          .replace(/^#+ /, '')
          .toLowerCase()
          .replace(/[^\w -]/g, ''),
      )
      .map((line) => `docs/operations.md#${line.replaceAll(' ', '-')}`);
    for (const { alert, labels, annotations } of rules) {
      expect([alert, labels.severity]).toEqual([
        alert,
        expect.stringMatching(/^(critical|warning)$/),
      ]);
      expect(annotations.summary).toMatch(/\.$/);
      expect(annotations.description).toMatch(/\.$/);
      expect(headings).toContain(annotations.runbook);
    }
    expect(new Set(rules.map(({ alert }) => alert)).size).toBe(rules.length);
  });

  it('know the bound of exports', () => {
    const { expr } = rules.find(({ alert }) => alert === 'MailGuardExportsAtBound') ?? {};
    expect(expr).toBe(`mailguard_audit_exports_running >= ${EXPORTS_MAX}`);
  });

  it('are each tried', () => {
    const tried = read('deploy/prometheus/mailguard.rules.test.yml');
    for (const { alert } of rules) expect(tried).toContain(`{alertname="${alert}"}`);
  });
});

describe('the dashboard', () => {
  it('has panels of their own ids that lie side by side, with the data source that is chosen', () => {
    const { panels } = dashboard;
    expect(new Set(panels.map(({ id }) => id)).size).toBe(panels.length);
    for (const { title, type, gridPos, datasource, targets = [] } of panels) {
      expect([title, gridPos.x + gridPos.w <= 24]).toEqual([title, true]);
      if (type === 'row') continue;
      // biome-ignore lint/suspicious/noTemplateCurlyInString: Grafana puts it in.
      expect([title, datasource?.uid]).toEqual([title, '${datasource}']);
      expect([title, targets.length > 0]).toEqual([title, true]);
    }
    const cells = panels.flatMap(({ gridPos: { x, y, w, h } }) =>
      Array.from({ length: w * h }, (_, n) => `${x + (n % w)},${y + Math.floor(n / w)}`),
    );
    expect(new Set(cells).size).toBe(cells.length);
  });
});

describe.skipIf(!hasPromtool)('promtool', () => {
  let dir: string;
  beforeAll(() => {
    dir = mkdtempSync(join(tmpdir(), 'mailguard-rules-'));
  });
  afterAll(() => rmSync(dir, { recursive: true, force: true }));

  const promtool = (...args: readonly string[]) =>
    spawnSync('promtool', args, { encoding: 'utf8' });

  it('takes the rules', () => {
    const { status, stdout, stderr } = promtool('check', 'rules', RULES);
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    expect(stdout).toContain(`SUCCESS: ${rules.length} rules found`);
  });

  it('sees each rule fire on what it is for, and none while all is well', () => {
    const { status, stdout, stderr } = promtool(
      ...['test', 'rules', RULES.replace('.rules.yml', '.rules.test.yml')],
    );
    expect({ status, said: `${stdout}${stderr}` }).toMatchObject({ status: 0 });
  });

  it('reads every expression of the dashboard', () => {
    const file = join(dir, 'dashboard.yml');
    const recorded = asked.map((expr, n) => ({ record: `panel_${n}`, expr }));
    writeFileSync(file, stringify({ groups: [{ name: 'dashboard', rules: recorded }] }));
    const { status, stdout, stderr } = promtool('check', 'rules', file);
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    expect(stdout).toContain(`SUCCESS: ${asked.length} rules found`);
  });
});
