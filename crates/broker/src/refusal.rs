//! What a client is told when it does not get what it asked for.
//!
//! Bodies are upstream's: `{"type":"https://github.com/confidential-containers/kbs/errors/<kind>",
//! "detail":"…"}`. Status codes say what is meant, unlike upstream's, since its client attests again
//! on 401 and gives up on all others. `detail` is for the client, the cause is for the log.

use hyper::StatusCode;
use serde_json::{Value, json};

const TYPE_PREFIX: &str = "https://github.com/confidential-containers/kbs/errors/";

/// The `type` of an error: upstream's names, and our own where it has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    // Upstream's.
    AttestationError,
    TokenNotFound,
    TokenVerifierError,
    PolicyDeny,
    PolicyEngineError,
    SerdeError,
    InvalidRequestPath,
    PluginNotFound,
    PluginInternalError,
    JweError,
    AdminAuthAccess,
    // Ours.
    AdminRole,
    MethodNotAllowed,
    PayloadTooLarge,
    RequestTimeout,
    ResourceExists,
    ResourceRefused,
    PolicyReadOnly,
    AuditUnavailable,
    TooManyRequests,
}

impl Kind {
    /// All of them.
    pub(crate) const ALL: [Self; 20] = [
        Self::AttestationError,
        Self::TokenNotFound,
        Self::TokenVerifierError,
        Self::PolicyDeny,
        Self::PolicyEngineError,
        Self::SerdeError,
        Self::InvalidRequestPath,
        Self::PluginNotFound,
        Self::PluginInternalError,
        Self::JweError,
        Self::AdminAuthAccess,
        Self::AdminRole,
        Self::MethodNotAllowed,
        Self::PayloadTooLarge,
        Self::RequestTimeout,
        Self::ResourceExists,
        Self::ResourceRefused,
        Self::PolicyReadOnly,
        Self::AuditUnavailable,
        Self::TooManyRequests,
    ];

    /// The HTTP status.
    pub(crate) fn status(self) -> StatusCode {
        match self {
            Self::AttestationError
            | Self::TokenNotFound
            | Self::TokenVerifierError
            | Self::AdminAuthAccess => StatusCode::UNAUTHORIZED,
            Self::PolicyDeny | Self::AdminRole => StatusCode::FORBIDDEN,
            Self::SerdeError | Self::ResourceRefused => StatusCode::BAD_REQUEST,
            Self::InvalidRequestPath | Self::PluginNotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::PolicyReadOnly => StatusCode::CONFLICT,
            Self::ResourceExists => StatusCode::PRECONDITION_FAILED,
            Self::PayloadTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::PolicyEngineError | Self::PluginInternalError | Self::JweError => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
            Self::AuditUnavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
        }
    }
}

/// A request that is refused.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) kind: Kind,
    /// For the client.
    pub(crate) detail: String,
    /// For the log; may be empty.
    pub(crate) cause: String,
    /// Instead of the kind's own.
    status: Option<StatusCode>,
    /// It has its audit record, or its place in the count of those that have none.
    pub(crate) is_recorded: bool,
}

impl Refusal {
    /// A refusal whose detail says all.
    pub(crate) fn new(kind: Kind, detail: impl Into<String>) -> Self {
        let (detail, cause) = (detail.into(), String::new());
        Self { kind, detail, cause, status: None, is_recorded: false }
    }

    /// Adds what only the log may know.
    #[must_use]
    pub(crate) fn because(mut self, cause: impl ToString) -> Self {
        self.cause = cause.to_string();
        self
    }

    /// Says that the audit log need not be told.
    #[must_use]
    pub(crate) fn recorded(mut self) -> Self {
        self.is_recorded = true;
        self
    }

    /// Answers with another status: the same kind of error can be the client's fault or ours.
    #[must_use]
    pub(crate) fn with_status(mut self, status: StatusCode) -> Self {
        self.status = Some(status);
        self
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.status.unwrap_or(self.kind.status())
    }

    pub(crate) fn body(&self) -> Value {
        json!({ "type": format!("{TYPE_PREFIX}{:?}", self.kind), "detail": self.detail })
    }
}
