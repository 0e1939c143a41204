//! Azure Blob Storage.

use std::collections::HashMap;

use opendal::{Operator, services};
use reqsign_azure_storage::{
    ClientSecretCredentialProvider, Credential, ImdsCredentialProvider, StaticCredentialProvider,
    WorkloadIdentityCredentialProvider,
};
use reqsign_core::{Context, ProvideCredential, ProvideCredentialChain};

use super::identity::{METADATA_TIME_MAX, captured};
use super::{Opened, Parts, Version, failure};
use crate::service::AzureContainer;
use crate::{Error, Settings};

const PARTS: Parts = Parts { count_max: 50_000 };

pub(super) fn open(place: &AzureContainer, settings: &Settings) -> Result<Opened, Error> {
    let endpoint = settings.azure_endpoint.clone().unwrap_or_else(|| place.endpoint());
    let chain = ProvideCredentialChain::new();
    let identity = Identity::of(place, settings);
    let mut builder = services::Azblob::default()
        .container(&place.container)
        .endpoint(&endpoint)
        .account_name(&place.account);
    builder = match &identity {
        Identity::Nobody => builder.skip_signature(),
        Identity::Sas(token) => builder
            .credential_provider_chain(chain.push(StaticCredentialProvider::new_sas_token(token))),
        Identity::Key(key) => builder.credential_provider_chain(
            chain.push(StaticCredentialProvider::new_shared_key(&place.account, key)),
        ),
        Identity::Entra(entra) => builder.credential_provider_chain(chain.push(entra.clone())),
    };
    let operator = Operator::new(builder).map_err(|error| failure(&error))?;
    let tls = !endpoint.starts_with("http:") || matches!(identity, Identity::Entra(_));
    Ok(Opened { operator, version: Version::Etag, tls, parts: PARTS })
}

/// Who we are to Azure's stores, in this order.
pub(crate) enum Identity {
    /// `?sv=…&sig=…` in the URI, or `AZURE_STORAGE_SAS_TOKEN`.
    Sas(String),
    /// `AZURE_STORAGE_ACCESS_KEY`.
    Key(String),
    /// `AZURE_CLIENT_ID` with what proves it.
    Entra(Entra),
    /// Public containers.
    Nobody,
}

impl Identity {
    pub(crate) fn of(place: &AzureContainer, settings: &Settings) -> Self {
        let get = |name: &str| settings.ambient.get(name).cloned();
        if settings.anonymous {
            return Self::Nobody;
        }
        if let Some(token) = place.sas.clone().or_else(|| get("AZURE_STORAGE_SAS_TOKEN")) {
            return Self::Sas(token.trim_start_matches('?').to_owned());
        }
        if let Some(key) =
            get("AZURE_STORAGE_ACCESS_KEY").or_else(|| get("AZURE_STORAGE_ACCOUNT_KEY"))
        {
            return Self::Key(key);
        }
        // KServe's older Secrets spell them so.
        let either =
            |name: &str| get(&format!("AZURE_{name}")).or_else(|| get(&format!("AZ_{name}")));
        let Some(client) = either("CLIENT_ID") else { return Self::Nobody };
        let mut variables = settings.ambient.clone();
        variables.insert("AZURE_CLIENT_ID".to_owned(), client);
        for name in ["TENANT_ID", "CLIENT_SECRET"] {
            if let Some(value) = either(name) {
                variables.insert(format!("AZURE_{name}"), value);
            }
        }
        Self::Entra(Entra { variables })
    }
}

/// An identity of Microsoft Entra.
///
/// | proof | used when |
/// | --- | --- |
/// | client secret | `AZURE_CLIENT_SECRET` is set |
/// | workload identity | `AZURE_FEDERATED_TOKEN_FILE` is set |
/// | the machine's managed identity | neither |
#[derive(Clone)]
pub(crate) struct Entra {
    variables: HashMap<String, String>,
}

impl std::fmt::Debug for Entra {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Entra")
    }
}

impl ProvideCredential for Entra {
    type Credential = Credential;

    async fn provide_credential(
        &self,
        context: &Context,
    ) -> reqsign_core::Result<Option<Credential>> {
        let context = captured(context, &self.variables, &[]);
        if self.variables.contains_key("AZURE_CLIENT_SECRET") {
            return ClientSecretCredentialProvider::new().provide_credential(&context).await;
        }
        if self.variables.contains_key("AZURE_FEDERATED_TOKEN_FILE") {
            return WorkloadIdentityCredentialProvider::new().provide_credential(&context).await;
        }
        let provider = ImdsCredentialProvider::new();
        tokio::time::timeout(METADATA_TIME_MAX, provider.provide_credential(&context))
            .await
            .unwrap_or(Ok(None))
    }
}
