/**
 * Every refusal a caller can meet, by its stable code. The HTTP status of each stands in
 * `api/error-status.ts`; a code added here does not compile until it has one.
 */
export type ErrorCode =
  | 'bad_request'
  | 'validation_failed'
  | 'invalid_cursor'
  | 'cursor_filter_mismatch'
  | 'key_in_url'
  | 'unauthorized'
  | 'scope_forbidden'
  | 'beyond_own_authority'
  | 'not_found'
  | 'method_not_allowed'
  | 'not_acceptable'
  | 'already_exists'
  | 'state_conflict'
  | 'idempotency_in_progress'
  | 'cursor_log_mismatch'
  | 'cursor_ahead_of_log'
  | 'cursor_gone'
  | 'erased'
  | 'stale'
  | 'payload_too_large'
  | 'unsupported_media_type'
  | 'unknown_mail_domain'
  | 'idempotency_mismatch'
  | 'no_route'
  | 'target_refused'
  | 'not_a_message'
  | 'foreign_recipients'
  | 'release_failed'
  | 'reject_failed'
  | 'content_gone'
  | 'rate_limited'
  | 'headers_too_large'
  | 'internal'
  | 'quarantine_full'
  | 'unavailable';

/** A refusal that its caller can understand and mend; anything else that is thrown is a bug. */
export class DomainError extends Error {
  readonly code: ErrorCode;
  /** Told to the caller in `data`, for example the issues of a failed validation. */
  readonly details: unknown;

  constructor(code: ErrorCode, message: string, details: unknown = null) {
    super(message);
    this.name = 'DomainError';
    this.code = code;
    this.details = details;
  }
}
