import sanitize from 'sanitize-html';
import { cutText, toStorableLines, toStorableText } from './mail-text.ts';

type CleanHtml = Readonly<{
  html: string;
  /** Whether the HTML would have loaded something from elsewhere. */
  isRemote: boolean;
  isCut: boolean;
}>;

/** What bounds the sanitiser's time: its closing of tags is quadratic in how many there are. */
const HTML_LENGTH_MAX = 524_288;
const TAGS_MAX = 20_000;
const NESTING_MAX = 256;
const TARGET_LENGTH_MAX = 2_000;
const IMAGE_LENGTH_MAX = 262_144;
const STYLE_LENGTH_MAX = 2_000;

/**
 * A mail's HTML pages, reduced to a closed list of tags and attributes that load nothing, run nothing
 * and lead nowhere. Where a link led is its title.
 */
export function cleanHtml(pages: readonly string[]): CleanHtml {
  const clean: string[] = [];
  let lengthLeft = HTML_LENGTH_MAX;
  let tagsLeft = TAGS_MAX;
  let isRemote = false;
  let isCut = false;
  for (const page of pages) {
    const html = cutAtTag(cutText(page, lengthLeft), tagsLeft);
    lengthLeft -= html.length;
    tagsLeft -= html.split('<').length - 1;
    isCut ||= html.length < page.length;
    const cleaned = cleanPage(html);
    isRemote ||= cleaned.isRemote;
    clean.push(cleaned.html);
  }
  return { html: clean.join('\n'), isRemote, isCut };
}

/** Up to the first tag that is one too many. */
function cutAtTag(html: string, tagsMax: number): string {
  let at = -1;
  for (let tags = 0; tags <= tagsMax; tags += 1) {
    at = html.indexOf('<', at + 1);
    if (at === -1) return html;
  }
  return html.slice(0, at);
}

function cleanPage(html: string): Omit<CleanHtml, 'isCut'> {
  let isRemote = REMOTE_STYLE.test(html);
  const clean = sanitize(html, {
    allowedTags: TAGS,
    allowedAttributes: { '*': ['title', 'alt', 'src', 'style', 'colspan', 'rowspan'] },
    nonTextTags: UNSHOWN_TAGS,
    nestingLimit: NESTING_MAX,
    // `styleOf` has read the style already, and lets nothing through that would need parsing.
    parseStyleAttributes: false,
    allowedSchemes: ['data'],
    transformTags: {
      '*': (tagName, attribs) => {
        isRemote ||= isRemoteTag(tagName, attribs);
        return { tagName, attribs: attributesOf(tagName, attribs) };
      },
    },
  });
  return { html: toStorableLines(clean), isRemote };
}

const TAGS = (
  'a abbr b bdi bdo big blockquote br caption center cite code col colgroup dd del dfn div dl dt em ' +
  'h1 h2 h3 h4 h5 h6 hr i img ins kbd li mark ol p pre q s samp small span strike strong sub sup ' +
  'table tbody td tfoot th thead tr tt u ul var wbr'
).split(' ');
/** What is within these is no text of the mail. */
const UNSHOWN_TAGS =
  'script style title textarea option xmp iframe noembed noframes template'.split(' ');

type Attributes = Readonly<Record<string, string>>;

/** A tag's attributes, made anew: what a sender wrote stays when a pattern knows all of it. */
function attributesOf(tagName: string, attribs: Attributes): Record<string, string> {
  const style = styleOf(attribs['style'] ?? '');
  const spans = ['colspan', 'rowspan'].flatMap((name) => {
    const value = attribs[name] ?? '';
    return /^[1-9]\d?$/.test(value) && /^t[dh]$/.test(tagName) ? [[name, value] as const] : [];
  });
  return {
    ...Object.fromEntries(spans),
    ...(tagName === 'a' ? targetOf(attribs) : {}),
    ...(tagName === 'img' ? imageOf(attribs) : {}),
    ...(style === '' ? {} : { style }),
  };
}

const targetOf = ({ href }: Attributes): Record<string, string> =>
  href === undefined ? {} : { title: toStorableText(href, TARGET_LENGTH_MAX) };

const IMAGE = /^data:image\/(?:png|jpeg|gif|webp);base64,[A-Za-z0-9+/=\s]+$/i;

function imageOf({ src = '', alt = '' }: Attributes): Record<string, string> {
  const isInline = src.length <= IMAGE_LENGTH_MAX && IMAGE.test(src);
  return { alt: toStorableText(alt, TARGET_LENGTH_MAX), ...(isInline ? { src } : {}) };
}

const COLOR = /^(?:#[\da-f]{3,8}|[a-z]{3,24}|rgb\((?:\d{1,3}, ?){2}\d{1,3}\))$/;
const LENGTH = /^\d{1,4}(?:\.\d{1,3})?(?:px|%)?$/;
/** Each property of CSS that may stay, with all that its value may be. */
const STYLES = new Map([
  ['color', COLOR],
  ['background-color', COLOR],
  ['text-align', /^(?:left|right|center|justify)$/],
  ['font-weight', /^(?:normal|bold|bolder|lighter|[1-9]00)$/],
  ['font-style', /^(?:normal|italic|oblique)$/],
  ['text-decoration', /^(?:none|underline|overline|line-through)$/],
  [
    'font-size',
    /^(?:\d{1,2}(?:\.\d{1,3})?(?:px|pt|em|rem)|\d{1,3}%|(?:xx?-)?(?:small|large)|medium)$/,
  ],
  ['width', LENGTH],
  ['height', LENGTH],
]);

function styleOf(style: string): string {
  const kept = cutText(style, STYLE_LENGTH_MAX)
    .toLowerCase()
    .split(';')
    .flatMap((declaration) => {
      const [property = '', ...values] = declaration.split(':');
      const value = values.join(':').trim();
      const isKept = STYLES.get(property.trim())?.test(value) ?? false;
      return isKept ? [`${property.trim()}:${value}`] : [];
    });
  return kept.join(';');
}

const LOADING = new Set(
  'src srcset imagesrcset background poster data lowsrc dynsrc xlink:href style'.split(' '),
);
/** Where `href` loads rather than leads. */
const LOADING_TAGS = new Set(['link', 'image', 'use', 'base', 'feimage']);
const REMOTE = /(?:^|[\s,;'"(=])(?:(?:https?|ftp):|[\\/]{2})/i;
const REMOTE_STYLE = /(?:url\(|@import)[\s'"]*(?:(?:https?|ftp):|[\\/]{2})/i;

/** Whether a browser would fetch something from elsewhere to show a tag, or go there by itself. */
function isRemoteTag(tagName: string, attribs: Attributes): boolean {
  return Object.entries(attribs).some(([name, value]) => {
    const isLoading =
      LOADING.has(name) ||
      (name === 'href' && LOADING_TAGS.has(tagName)) ||
      (name === 'content' && tagName === 'meta' && attribs['http-equiv'] !== undefined);
    // A browser takes line ends and tabs out of an address, and blanks off its ends.
    const address = value.replace(/[\t\n]/g, '').trim();
    const isInline = /^(?:data|cid):/i.test(address) && !name.endsWith('srcset');
    return isLoading && !isInline && REMOTE.test(address);
  });
}
