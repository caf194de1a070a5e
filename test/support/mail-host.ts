import {
  type ChildProcess,
  execFileSync,
  type SpawnSyncReturns,
  spawn,
  spawnSync,
} from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { chmod, cp, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { type AddressInfo, connect, createServer, type NetConnectOpts } from 'node:net';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

const DEPLOY = fileURLToPath(new URL('../../deploy/', import.meta.url));
const PROGRAMS = [
  ...['postfix', 'rspamd', 'rspamadm', 'redis-server', 'systemd-socket-activate', 'swaks'],
];
const CONTROLLER_PASSWORD = 'mail-host-controller';
const READY_MS = 30_000;
const END_MS = 20_000;
/** rspamd's modules that ask the network, or that make a sender wait. */
const MODULES_OFF = `arc asn dkim dkim_signing dmarc fuzzy_check greylist hfilter mx_check phishing
  ratelimit rbl rspamd_update spf surbl url_redirector`.split(/\s+/);

export type MailHostOptions = Readonly<{
  /** Mail from 127.0.0.1 goes to the sink when it is for this domain, and is dropped otherwise. */
  domain: string;
  sink: Readonly<{ host: string; port: number }>;
  /** Where rspamd tells of a held message, as user `ingest`. */
  exporter: Readonly<{ url: string; password: string }>;
  smtpPort?: number;
  hasLongIds?: boolean;
  /** What is beyond the reject threshold (GTUBE always is) is held, too. */
  isRejectHeld?: boolean;
  milterDefaultAction?: 'accept' | 'tempfail' | 'quarantine';
  /** More lines of main.cf, stronger than all others. */
  settings?: Readonly<Record<string, string>>;
}>;

/**
 * A real Postfix behind a real rspamd. A message with the header `X-Test-Score: quarantine` gets a score
 * in the band that is held, one with `X-Test-Score: reject` is refused. Clients may use XCLIENT.
 */
export type MailHost = Readonly<{
  smtpPort: number;
  /** The Unix socket of the helper. */
  socket: string;
  /** Is MAIL_CONFIG for this instance. */
  configDir: string;
  mailLog: string;
  queueDir: string;
  controllerUrl: string;
  controllerPassword: string;
  /** Runs postsuper, postqueue or another program of Postfix as an administrator at the console would. */
  postfix: (program: string, args: readonly string[], input?: string) => SpawnSyncReturns<string>;
  stopRspamd: () => Promise<void>;
  startRspamd: () => Promise<void>;
  stopRedis: () => Promise<void>;
  startRedis: () => Promise<void>;
  stopPostfix: () => Promise<void>;
  startPostfix: () => Promise<void>;
  /** Ends every process of the host and removes its files. */
  stop: () => Promise<void>;
}>;

/** What a mail host needs and this machine has not; its tests are then skipped. */
export function missingPrograms(): string[] {
  const missing = PROGRAMS.filter((name) => !isInstalled(name));
  return process.getuid?.() === 0 ? missing : [...missing, 'the rights of root'];
}

/** Starts everything on 127.0.0.1, as the files in deploy/ say; leaves nothing behind when that fails. */
export async function startMailHost(options: MailHostOptions): Promise<MailHost> {
  const dir = await mkdtemp(join(tmpdir(), 'mailguard-mail-host-'));
  // The accounts postfix and _rspamd go through it.
  await chmod(dir, 0o711);
  const place = await placeIn(dir, options);
  const { redis, rspamd, postfix, helper } = servicesAt(place);
  const stop = async () => {
    const ended = settleAll([helper, postfix, rspamd, redis].map((one) => one.stop()));
    await ended.finally(() => rm(dir, { recursive: true, force: true, maxRetries: 5 }));
  };
  try {
    await configurePostfix(place, options);
    await configureRspamd(place, options);
    await redis.start();
    await settleAll([rspamd.start(), postfix.start(), helper.start()]);
  } catch (error) {
    await stop();
    throw error;
  }
  return {
    ...place,
    controllerUrl: `http://127.0.0.1:${place.controllerPort}`,
    controllerPassword: CONTROLLER_PASSWORD,
    postfix: (program, args, input = '') => runPostfix(place.configDir, program, args, input),
    stopRspamd: rspamd.stop,
    startRspamd: rspamd.start,
    stopRedis: redis.stop,
    startRedis: redis.start,
    stopPostfix: postfix.stop,
    startPostfix: postfix.start,
    stop,
  };
}

type Place = Awaited<ReturnType<typeof placeIn>>;

async function placeIn(dir: string, options: MailHostOptions) {
  const [smtpPort = 0, proxyPort = 0, controllerPort = 0, redisPort = 0] = await freePorts(4);
  return {
    dir,
    smtpPort: options.smtpPort ?? smtpPort,
    ...{ proxyPort, controllerPort, redisPort },
    socket: join(dir, 'helper.sock'),
    configDir: join(dir, 'postfix'),
    queueDir: join(dir, 'queue'),
    mailLog: join(dir, 'mail.log'),
    rspamdDir: join(dir, 'rspamd'),
  };
}

type Service = Readonly<{ start: () => Promise<void>; stop: () => Promise<void> }>;

function servicesAt(place: Place): Record<'redis' | 'rspamd' | 'postfix' | 'helper', Service> {
  const { configDir, redisPort, proxyPort, controllerPort } = place;
  const redis = ['--bind', '127.0.0.1', '--port', `${redisPort}`, '--dir', place.dir, '--save', ''];
  const rspamd = [
    ...['-f', '-u', '_rspamd', '-g', '_rspamd', '-c', '/etc/rspamd/rspamd.conf'],
    `--var=LOCAL_CONFDIR=${place.rspamdDir}`,
    ...['DBDIR', 'RUNDIR', 'LOGDIR'].map((name) => `--var=${name}=${place.rspamdDir}/state`),
  ];
  const helper = [
    ...['--accept', '--inetd', '-l', place.socket, '-E', `MAIL_CONFIG=${configDir}`],
    join(DEPLOY, 'postfix/mailguard-postfix'),
  ];
  return {
    redis: service(['redis-server', ...redis], { ready: [{ port: redisPort }] }),
    rspamd: service(['rspamd', ...rspamd], {
      ready: [{ port: proxyPort }, { port: controllerPort }],
    }),
    postfix: service(['postfix', '-c', configDir, 'start-fg'], {
      ready: [{ port: place.smtpPort }],
      // What was started is a script that waits for master, which has a session of its own.
      pid: async () => Number(await readFile(join(place.queueDir, 'pid/master.pid'), 'utf8')),
    }),
    helper: service(['systemd-socket-activate', ...helper], { ready: [{ path: place.socket }] }),
  };
}

async function configurePostfix(place: Place, options: MailHostOptions): Promise<void> {
  const { configDir, queueDir } = place;
  const dataDir = join(place.dir, 'data');
  for (const folder of [configDir, queueDir, dataDir]) await mkdir(folder);
  execFileSync('chown', ['postfix', dataDir]);
  await cp(join(DEPLOY, 'postfix/main.cf.mailguard'), join(configDir, 'main.cf'));
  const checks = join(configDir, 'mailguard_header_checks');
  await cp(join(DEPLOY, 'postfix/mailguard_header_checks'), checks);
  // Debian's own, without the chroots: their files are made by the service of the machine.
  const master = (await readFile('/etc/postfix/master.cf.proto', 'utf8'))
    .replace(/^(\S+\s+\S+\s+\S+\s+\S+\s+)y/gm, '$1n')
    .replace(/^smtp(\s+inet)/m, `127.0.0.1:${place.smtpPort}$1`);
  await writeFile(join(configDir, 'master.cf'), master);
  const settings: Record<string, string> = {
    compatibility_level: '3.6',
    queue_directory: queueDir,
    data_directory: dataDir,
    maillog_file_prefixes: place.dir,
    maillog_file: place.mailLog,
    ...{ myhostname: 'mx.mail-host.test', mydestination: '' },
    inet_interfaces: '127.0.0.1',
    inet_protocols: 'ipv4',
    mynetworks: '127.0.0.0/8',
    smtpd_authorized_xclient_hosts: '127.0.0.1',
    smtpd_milters: `inet:127.0.0.1:${place.proxyPort}`,
    header_checks: `regexp:${checks}`,
    alias_maps: '',
    transport_maps: `inline:{ { ${options.domain} = smtp:[${options.sink.host}]:${options.sink.port} } }`,
    // The senders of the tests are nowhere: what would go to them goes no further.
    default_transport: 'discard',
    disable_dns_lookups: 'yes',
    queue_run_delay: '2s',
    minimal_backoff_time: '2s',
    maximal_backoff_time: '4s',
    enable_long_queue_ids: (options.hasLongIds ?? true) ? 'yes' : 'no',
    ...(options.milterDefaultAction && { milter_default_action: options.milterDefaultAction }),
    ...options.settings,
  };
  const lines = Object.entries(settings).map(([name, value]) => `${name}=${value}`);
  // Replaces the lines of the shipped file, where a second line of that name would bring a warning.
  execFileSync('postconf', ['-c', configDir, '-e', ...lines]);
}

async function configureRspamd(place: Place, options: MailHostOptions): Promise<void> {
  const { rspamdDir } = place;
  const { exporter, isRejectHeld = false } = options;
  await cp(join(DEPLOY, 'rspamd'), rspamdDir, { recursive: true });
  await mkdir(join(rspamdDir, 'override.d'));
  await mkdir(join(rspamdDir, 'state'));
  execFileSync('chown', ['_rspamd', join(rspamdDir, 'state')]);
  const files: Record<string, string> = {
    'override.d/worker-normal.inc': 'count = 0; enabled = false;',
    'override.d/worker-proxy.inc': `bind_socket = "127.0.0.1:${place.proxyPort}"; count = 1;
      quarantine_on_reject = ${isRejectHeld};`,
    'override.d/worker-controller.inc': `bind_socket = "127.0.0.1:${place.controllerPort}";
      password = "${CONTROLLER_PASSWORD}"; secure_ip = [];`,
    'override.d/redis.conf': `servers = "127.0.0.1:${place.redisPort}";`,
    'override.d/mailguard_ingest.inc': `url = "${exporter.url}"; password = "${exporter.password}";`,
    // No name is asked for, and nothing is compiled at the start that takes its time.
    'override.d/options.inc': `dns { nameserver = ["127.0.0.1:9"]; timeout = 0.1s; retransmits = 1; }
      disable_hyperscan = true; url_tld = "${rspamdDir}/suffixes.dat";`,
    'local.d/multimap.conf': `TEST_SCORE { type = "header"; header = "X-Test-Score"; regexp = true;
      map = "${rspamdDir}/scores.map"; symbols = ["TEST_QUARANTINE", "TEST_REJECT"]; }`,
    'local.d/groups.conf': `symbols { TEST_QUARANTINE { weight = 12; } TEST_REJECT { weight = 40; } }`,
    'scores.map': '/^quarantine/ TEST_QUARANTINE:1\n/^reject/ TEST_REJECT:1\n',
    'suffixes.dat': 'com\nnet\norg\nexample\ntest\n',
  };
  for (const name of MODULES_OFF) files[`override.d/${name}.conf`] = 'enabled = false;';
  for (const [name, text] of Object.entries(files)) await writeFile(join(rspamdDir, name), text);
}

type ServiceOptions = Readonly<{ ready: readonly NetConnectOpts[]; pid?: () => Promise<number> }>;

/** A process that is started in the foreground, and ended by its own id. */
function service([program = '', ...args]: readonly string[], options: ServiceOptions): Service {
  let child: ChildProcess | null = null;
  let output = '';
  const hasEnded = (one: ChildProcess) => one.exitCode !== null || one.signalCode !== null;
  const stop = async () => {
    const one = child;
    if (one === null || one.pid === undefined || hasEnded(one)) return;
    const ended = once(one, 'exit');
    const pid = (await options.pid?.().catch(() => null)) ?? one.pid;
    process.kill(pid, 'SIGTERM');
    const last = setTimeout(() => process.kill(pid, 'SIGKILL'), END_MS);
    await ended.finally(() => clearTimeout(last));
  };
  const start = async () => {
    output = '';
    const one = spawn(program, args, { stdio: ['ignore', 'pipe', 'pipe'], env: environment() });
    child = one;
    const keep = (chunk: unknown) => {
      output = `${output}${chunk}`.slice(-10_000);
    };
    one.on('error', keep);
    for (const stream of [one.stdout, one.stderr]) stream.on('data', keep);
    const until = Date.now() + READY_MS;
    for (const target of options.ready) {
      while (!(await answers(target))) {
        const isLost = one.pid === undefined || hasEnded(one) || Date.now() > until;
        if (isLost) throw new Error(`${program} did not start: ${output}`);
        await sleep(20);
      }
    }
  };
  return { start, stop };
}

async function answers(target: NetConnectOpts): Promise<boolean> {
  const socket = connect({ host: '127.0.0.1', ...target });
  const isThere = await once(socket, 'connect').then(
    () => true,
    () => false,
  );
  socket.destroy();
  return isThere;
}

function runPostfix(configDir: string, program: string, args: readonly string[], input: string) {
  const env = { ...environment(), MAIL_CONFIG: configDir };
  const ran = spawnSync(program, args, { env, input, encoding: 'utf8', maxBuffer: 64 * 2 ** 20 });
  if (ran.error) throw ran.error;
  return ran;
}

/** Waits for all of them, so that none is still under way when the first failure is told. */
async function settleAll(all: readonly Promise<void>[]): Promise<void> {
  for (const one of await Promise.allSettled(all)) if (one.status === 'rejected') throw one.reason;
}

export const freePort = async (): Promise<number> => (await freePorts(1))[0] ?? 0;

/** Held open together, so that no two are the same. */
async function freePorts(count: number): Promise<number[]> {
  const servers = Array.from({ length: count }, () => createServer().listen(0, '127.0.0.1'));
  await Promise.all(servers.map((server) => once(server, 'listening')));
  const ports = servers.map((server) => (server.address() as AddressInfo).port);
  await Promise.all(servers.map((server) => once(server.close(), 'close')));
  return ports;
}

function folders(): string[] {
  return [...(process.env['PATH'] ?? '').split(delimiter), '/usr/sbin', '/sbin'];
}

function environment(): NodeJS.ProcessEnv {
  return { ...process.env, PATH: folders().join(delimiter), LC_ALL: 'C' };
}

function isInstalled(name: string): boolean {
  return folders().some((folder) => existsSync(join(folder, name)));
}
