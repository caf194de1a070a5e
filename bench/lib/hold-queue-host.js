import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { ROOT } from './gateway.js';
import { pause } from './run.js';

const PROGRAMS = ['postfix', 'postconf', 'smtp-source', 'systemd-socket-activate'];
const FOLDERS = ['/usr/sbin', '/usr/bin', '/sbin', '/bin'];
const READY_MS = 20_000;
const LOOK_MS = 50;

/** What a Postfix of the benchmark's own needs and this machine has not. */
export function missingForPostfix() {
  const missing = PROGRAMS.filter((name) => !FOLDERS.some((dir) => existsSync(join(dir, name))));
  return process.getuid() === 0 ? missing : [...missing, 'the rights of root'];
}

/**
 * A real Postfix on the loopback that holds everything it gets, and MailGuard's helper for it on a Unix
 * socket. Both are ended with the run.
 */
export async function startHoldQueueHost(run) {
  const dir = run.workDir('hold-queue-host');
  chmodSync(dir, 0o711);
  const at = (name) => join(dir, name);
  const host = {
    port: await freePort(),
    configDir: at('postfix'),
    mailLog: at('mail.log'),
    socket: at('helper.sock'),
    holdDir: at('queue/hold'),
  };
  for (const name of ['postfix', 'queue', 'data']) mkdirSync(at(name));
  execFileSync('chown', ['postfix', at('data')]);
  writeFileSync(at('postfix/hold_all'), '/^/ HOLD\n');
  const master = readFileSync('/etc/postfix/master.cf.proto', 'utf8')
    .replace(/^(\S+\s+\S+\s+\S+\s+\S+\s+)y/gm, '$1n')
    .replace(/^smtp(\s+inet)/m, `127.0.0.1:${host.port}$1`);
  writeFileSync(at('postfix/master.cf'), master);
  const settings = {
    compatibility_level: '3.6',
    queue_directory: at('queue'),
    data_directory: at('data'),
    maillog_file_prefixes: dir,
    maillog_file: host.mailLog,
    myhostname: 'mx.bench.test',
    mydestination: '',
    inet_interfaces: '127.0.0.1',
    inet_protocols: 'ipv4',
    mynetworks: '127.0.0.0/8',
    relay_domains: 'bench.example',
    header_checks: `regexp:${at('postfix/hold_all')}`,
    default_transport: 'discard',
    relay_transport: 'discard',
    alias_maps: '',
    enable_long_queue_ids: 'yes',
    hash_queue_names: 'deferred, defer',
  };
  const lines = Object.entries(settings).map(([name, value]) => `${name} = ${value}`);
  writeFileSync(at('postfix/main.cf'), `${lines.join('\n')}\n`);
  await start(run, 'postfix', ['-c', host.configDir, 'start-fg'], {
    isReady: () => existsSync(at('queue/pid/master.pid')),
    pid: () => Number(readFileSync(at('queue/pid/master.pid'), 'utf8')),
  });
  const helper = join(ROOT, 'deploy/postfix/mailguard-postfix');
  const activate = ['--accept', '--inetd', '-l', host.socket, '-E', `MAIL_CONFIG=${host.configDir}`];
  await start(run, 'systemd-socket-activate', [...activate, helper], {
    isReady: () => existsSync(host.socket),
  });
  return {
    ...host,
    /** Sends so many messages, each of some 2,000 bytes, by SMTP. */
    fill(count) {
      const to = ['-f', 'eve@sender.example', '-t', 'you@bench.example', '-S', 'a bench'];
      execFileSync(
        'smtp-source',
        ['-m', String(count), '-s', '10', '-l', '2000', ...to, `inet:127.0.0.1:${host.port}`],
        { stdio: 'ignore' },
      );
    },
  };
}

async function start(run, program, args, { isReady, pid }) {
  const child = spawn(program, args, { stdio: 'ignore' });
  const ended = once(child, 'exit');
  run.defer(async () => {
    if (child.exitCode !== null) return;
    process.kill(pid?.() ?? child.pid, 'SIGTERM');
    await Promise.race([ended, pause(READY_MS)]);
  });
  const until = Date.now() + READY_MS;
  while (!isReady()) {
    if (child.exitCode !== null || Date.now() > until) throw new Error(`${program} did not start`);
    await pause(LOOK_MS);
  }
}

async function freePort() {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  await once(server.close(), 'close');
  return port;
}
