import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Operation, Principal, Reach } from '../domain/access.ts';
import type { Json } from '../domain/decider.ts';
import type { ErrorCode } from '../domain/errors.ts';
import type { EventMeta } from '../eventlog/eventlog.ts';
import type { LiveKey } from '../projections/live-keys.ts';
import type { Context } from './context.ts';
import { CSV_PAGE } from './csv.ts';
import { type Deprecation, requireNotice } from './deprecation.ts';
import { z } from './zod.ts';

export type Method = 'get' | 'post' | 'put' | 'patch' | 'delete';

/** Who may call: an operation of `domain/access.ts`, or everybody. */
type Permission =
  | Readonly<{ operation: Operation; reach: Reach }>
  | Readonly<{ operation: 'public' }>;

/** One request as a handler sees it: checked, and with its caller known. */
export type Call<Params, Query, Body> = Readonly<{
  params: Params;
  query: Query;
  body: Body;
  /** What the route's intake took in instead of a JSON body. */
  taken: unknown;
  /** The caller gave the ingest password, and has neither key nor principal. */
  isIngest: boolean;
  principal: Principal;
  key: LiveKey;
  meta: EventMeta;
  /** Events derive their ids from it; the same for every run of one idempotent request. */
  commandId: string;
  /** The revision in `If-Match`, null without one. */
  ifMatch: bigint | null;
  request: IncomingMessage;
  response: ServerResponse;
}>;

/** What a handler answers: data for the envelope, or a body that it writes itself. */
export type Answer<Reply> =
  | Readonly<{
      data: Reply;
      /** The data as JSON text, where its very bytes matter; `data` is then only checked. */
      dataText?: string;
      status?: number;
      message?: string;
      /** Revision, for `ETag`. */
      revision?: bigint;
      headers?: Readonly<Record<string, string>>;
      /** What of the data is kept for an idempotent replay, when not all of it may be. */
      replay?: unknown;
      /** Whose names the data holds (`type:id`): a kept answer is erased with them. */
      subject?: string;
    }>
  | Readonly<{ text: string; contentType: string; status?: number }>
  /** The handler has written, or is writing, the response by itself. */
  | 'streamed';

/** A body that is not JSON, and how it is taken in. */
export type Intake = Readonly<{
  mediaTypes: readonly string[];
  /** Request headers that say more of it, for the contract. */
  headers: z.ZodObject;
  /** Reads the body to its end, or rejects and keeps nothing of it. */
  receive: (context: Context, request: IncomingMessage) => Promise<Taken>;
}>;

export type Taken = Readonly<{
  body: unknown;
  /** What tells this body from another under the same idempotency key. */
  fingerprint: Json;
  /** Called when the request has ended: forgets what the handler has not made its own. */
  release: () => Promise<void>;
}>;

type Shape = z.ZodObject;

/**
 * An endpoint as a value: the server runs it, `openapi.yaml` is printed from it, the tests of scopes
 * and bad input are generated from it.
 */
export type Route<
  Params extends Shape = Shape,
  Query extends Shape = Shape,
  Body extends z.ZodType = z.ZodType,
  Reply extends z.ZodType = z.ZodType,
> = Readonly<{
  id: string;
  method: Method;
  /** Below `/api/v1`, unless `atRoot`. Parameters in braces. */
  path: string;
  atRoot?: true;
  tag: string;
  summary: string;
  description?: string;
  permission: Permission;
  params?: Params;
  query?: Query;
  body?: Body;
  /** Takes the body in instead of `body`. */
  intake?: Intake;
  /** May be called with the ingest password (HTTP Basic, user `ingest`) instead of a key. */
  takesIngestPassword?: true;
  /** A body need not be sent. */
  bodyOptional?: true;
  mergePatch?: true;
  reply: Reply;
  status?: 200 | 201;
  message?: string;
  /** Answers that are not the envelope: media type -> what it holds. */
  produces?: Readonly<Record<string, string>>;
  responseHeaders?: Readonly<Record<string, string>>;
  errors: readonly ErrorCode[];
  /** Every answer says that the route will go, and its use is counted; six months at least. */
  deprecated?: Deprecation;
  /** Changes under `If-Match`. */
  conditional?: true;
  /**
   * What is shown to one caller changes only with its revision, which is the whole `ETag` then. Not so what shows use,
   * limits or the clock (keys, webhooks): there a 304 by revision alone would hold back what did change.
   */
  changesWithRevision?: true;
  /** A read without an `ETag`: its answer is sent while it is read. */
  untagged?: true;
  /** Requests that are summed per hour instead of per minute, so that a poller does not feed itself. */
  isAuditRead?: true;
  example?: Readonly<{ params?: object; query?: object; headers?: object; body?: unknown }>;
  handle: (
    context: Context,
    call: Call<z.output<Params>, z.output<Query>, z.output<Body>>,
  ) => Promise<Answer<z.input<Reply>>>;
}>;

/** A route in the table: its schemas are known to be schemas, and its handler to fit them. */
export type AnyRoute = Omit<Route, 'handle'> &
  Readonly<{
    handle: (context: Context, call: Call<never, never, never>) => Promise<Answer<unknown>>;
  }>;

/**
 * Keeps a route's schemas apart while its handler is checked, then forgets them. Every list can be had as a
 * table, too.
 */
export function route<
  Params extends Shape,
  Query extends Shape,
  Body extends z.ZodType,
  Reply extends z.ZodType,
>(value: Route<Params, Query, Body, Reply>): AnyRoute {
  // Here, where the table is made: nobody starts a server that takes a route away too soon.
  if (value.deprecated !== undefined) requireNotice(value.deprecated);
  const isList = value.method === 'get' && value.reply instanceof z.ZodArray;
  return isList ? { ...value, produces: { ...value.produces, ...CSV_PAGE } } : value;
}
