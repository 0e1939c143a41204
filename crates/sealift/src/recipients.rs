//! The keys of one run, whoever holds them: what opens a bundle, and what one is sealed for.
//!
//! Which holder is asked follows from the key's name. Every question to one and every answer is
//! recorded; a key in a file of the caller's own is not asked for, only read.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use keys::{HttpSettings, Kbs, Retry, Source, with_retry};
use keys_ext::{
    AwsKms, AwsKmsSettings, AzureKms, AzureKmsSettings, GcpKms, GcpKmsSettings, Jwt, Login, Pin,
    Pkcs11, Pkcs11Settings, RemoteKey, Vault, VaultSettings,
};
use seal::bundle::{Bundle, Recipient};
use seal::key::{Kek, Purpose};
use seal::name::{BundleId, KeyUri, PluginUri, ResourceUri, VaultKv};
use seal::pin::Pins;
use secret::Secret;

use crate::cli::{BrokerArgs, KeyArgs, NamedKey, RemoteArgs, VaultAuth};
use crate::code::Code;
use crate::command::keygen;
use crate::failure::Failure;
use crate::key_source::{self, audited};

/// Longest single request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Where Kubernetes projects a service account's token.
const SERVICE_ACCOUNT_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// Where keys are asked for, for what, and who hears of it.
pub(crate) struct Keys<'a> {
    key: &'a KeyArgs,
    remote: &'a RemoteArgs,
    purpose: &'static str,
    log: &'a audit::Log,
    /// The administrator's key, for the one holder that wraps for nobody else.
    admin_key: Option<&'a Path>,
    /// Opened once: one attestation serves all keys of a run. A command that reads `--key-file`
    /// itself leaves it out of the arguments that this one is opened with.
    broker: OnceLock<Source>,
}

/// A key to seal for, ready to wrap.
pub(crate) struct Wrapping {
    key: KeyUri,
    kek: Kek,
    wrapped_key: Option<Vec<u8>>,
}

impl Wrapping {
    pub(crate) fn recipient(&self) -> Recipient<'_> {
        Recipient { key: &self.key, kek: &self.kek, wrapped_key: self.wrapped_key.as_deref() }
    }
}

impl<'a> Keys<'a> {
    /// `purpose` is for the records: `open`, `seal`, ….
    pub(crate) fn new(
        key: &'a KeyArgs,
        remote: &'a RemoteArgs,
        purpose: &'static str,
        log: &'a audit::Log,
    ) -> Self {
        Self { key, remote, purpose, log, admin_key: None, broker: OnceLock::new() }
    }

    /// With an administrator's key, if there is one.
    pub(crate) fn administered(self, admin_key: Option<&'a Path>) -> Self {
        Self { admin_key, ..self }
    }

    /// The key that opens `bundle` for its recipient `name`: from `file` if there is one, else from
    /// its holder.
    pub(crate) async fn opening(
        &self,
        name: &KeyUri,
        file: Option<&Path>,
        bundle: &Bundle,
    ) -> Result<Kek, Failure> {
        let Some(wrapped) = bundle.wrapped_key(name)? else {
            let kek = match file {
                Some(file) => self.in_file(name, file).await?,
                None => self.released(name).await?,
            };
            kek.permits(Purpose::Open).map_err(|error| Failure::from(error).at(name))?;
            return Ok(kek);
        };
        refuse_file(name, file)?;
        self.unwrapped(name, wrapped, &bundle.claimed().id).await
    }

    /// The key of the recipient `name`, as its holder unwraps it.
    async fn unwrapped(
        &self,
        name: &KeyUri,
        wrapped: &[u8],
        id: &BundleId,
    ) -> Result<Kek, Failure> {
        let unwrapped = match name {
            KeyUri::VaultTransit(key) => {
                self.unwrap(&self.vault(name).await?, key, name, wrapped, id).await?
            }
            KeyUri::AwsKms(key) => self.unwrap(&self.aws_kms(), key, name, wrapped, id).await?,
            KeyUri::GcpKms(key) => self.unwrap(&self.gcp_kms(), key, name, wrapped, id).await?,
            KeyUri::AzureKms(key) => self.unwrap(&self.azure_kms(), key, name, wrapped, id).await?,
            KeyUri::Pkcs11(key) => self.unwrap(&self.pkcs11()?, key, name, wrapped, id).await?,
            KeyUri::KbsPlugin(plugin) => self.plugin_unwraps(plugin, name, wrapped).await?,
            KeyUri::Kbs(_) | KeyUri::VaultKv(_) => return Err(never_wrapped(name)),
        };
        Ok(Kek::unwrapped(unwrapped)?)
    }

    /// A key that unwraps, tried on nothing but itself: what it has just wrapped.
    pub(crate) async fn tried(&self, name: &KeyUri) -> Result<Kek, Failure> {
        let id = BundleId::random();
        let to = NamedKey { key: name.clone(), file: None };
        let Wrapping { kek, wrapped_key, .. } = self.wrapping(&to, &id).await?;
        let wrapped = wrapped_key.ok_or_else(|| never_wrapped(name))?;
        let unwrapped = self.unwrapped(name, &wrapped, &id).await?;
        match aws_lc_rs::constant_time::verify_slices_are_equal(kek.expose(), unwrapped.expose()) {
            Ok(()) => Ok(unwrapped),
            Err(_) => {
                Err(Failure::new(Code::KeyUnusable, "it unwraps to another key than it wrapped")
                    .at(name))
            }
        }
    }

    /// The key `name` as its holder releases it.
    pub(crate) async fn released(&self, name: &KeyUri) -> Result<Kek, Failure> {
        match (name, &self.key.key_file) {
            (KeyUri::Kbs(resource), _) => self.brokers_key(self.key, resource).await,
            (KeyUri::VaultKv(_), Some(file)) => self.in_file(name, file).await,
            (KeyUri::VaultKv(key), None) => self.vault_value(key, name).await,
            (KeyUri::KbsPlugin(plugin), file) if !plugin.unwraps() => match file {
                Some(file) => self.in_file(name, file).await,
                None => self.plugins_value(plugin, name).await,
            },
            _ => Err(Failure::usage(format!(
                "{name} is never released: it unwraps what a bundle holds"
            ))
            .hint("Try it on a bundle: sealift verify SRC --resource-id URI")),
        }
    }

    /// The document of pins `resource`, from the broker, data hub or file that keys are released
    /// from, with whatever proves who asks there. A key's file beside a broker is not taken for it.
    pub(crate) async fn pins(&self, resource: &ResourceUri) -> Result<Pins, Failure> {
        let KeyArgs { key_source, key_file, kbs_url, key_timeout, .. } = self.key;
        let apart = match (key_source, key_file, kbs_url) {
            (None, Some(_), Some(_)) => {
                Some(key_source::open(&KeyArgs { key_file: None, ..self.key.clone() })?)
            }
            _ => None,
        };
        let source = apart.as_ref().map_or_else(|| self.source(self.key), Ok)?;
        let parse = |document: Secret| {
            seal::pin::parse(document.expose())
                .map_err(|error| Failure::from(error).recode(Code::KeyUnusable).at(resource))
        };
        key_source::release_as(source, resource, "pins", *key_timeout, self.log, parse).await
    }

    async fn in_file(&self, name: &KeyUri, file: &Path) -> Result<Kek, Failure> {
        audited(name, "file", self.purpose, self.log, async { keygen::read(file) }).await
    }

    /// Who is asked for `name`: for people.
    pub(crate) fn holder(&self, name: &KeyUri) -> &'static str {
        match name {
            KeyUri::Kbs(_) => key_source::kind_of(self.key),
            KeyUri::VaultKv(_) | KeyUri::KbsPlugin(_) if self.key.key_file.is_some() => "file",
            KeyUri::KbsPlugin(_) => "kbs",
            KeyUri::VaultKv(_) | KeyUri::VaultTransit(_) => "vault",
            KeyUri::AwsKms(_) => "awskms",
            KeyUri::GcpKms(_) => "gcpkms",
            KeyUri::AzureKms(_) => "azurekms",
            KeyUri::Pkcs11(_) => "pkcs11",
        }
    }

    /// The key that wraps `bundle`'s data key for `to`; refused if it says that it is another.
    pub(crate) async fn wrapping(
        &self,
        to: &NamedKey,
        bundle: &BundleId,
    ) -> Result<Wrapping, Failure> {
        let NamedKey { key: name, file } = to;
        let released = |kek: Kek| match kek.resource() {
            Some(own) if own != name => {
                Err(Failure::usage(format!("the key is {own}, not {name}")))
            }
            _ => {
                kek.permits(Purpose::Seal).map_err(|error| Failure::from(error).at(name))?;
                Ok(Wrapping { key: name.clone(), kek, wrapped_key: None })
            }
        };
        // `--key-file` is another key's file here: whoever has no file of its own is asked.
        match (name, file) {
            (name, file) if name.unwraps() => refuse_file(name, file.as_deref())?,
            (_, Some(file)) => return released(self.in_file(name, file).await?),
            (KeyUri::Kbs(resource), None) => {
                return released(self.named_brokers_key(resource).await?);
            }
            (KeyUri::VaultKv(key), None) => return released(self.vault_value(key, name).await?),
            (KeyUri::KbsPlugin(plugin), None) => {
                return released(self.plugins_value(plugin, name).await?);
            }
            _ => {}
        }
        let kek = Kek::unwrapped(Secret::random_key())?;
        let wrapped = match name {
            KeyUri::VaultTransit(key) => {
                self.wrap(&self.vault(name).await?, key, name, &kek, bundle).await?
            }
            KeyUri::AwsKms(key) => self.wrap(&self.aws_kms(), key, name, &kek, bundle).await?,
            KeyUri::GcpKms(key) => self.wrap(&self.gcp_kms(), key, name, &kek, bundle).await?,
            KeyUri::AzureKms(key) => self.wrap(&self.azure_kms(), key, name, &kek, bundle).await?,
            KeyUri::Pkcs11(key) => self.wrap(&self.pkcs11()?, key, name, &kek, bundle).await?,
            KeyUri::KbsPlugin(plugin) => self.plugin_wraps(plugin, name, &kek).await?,
            KeyUri::Kbs(_) | KeyUri::VaultKv(_) => return Err(never_wrapped(name)),
        };
        Ok(Wrapping { key: name.clone(), kek, wrapped_key: Some(wrapped) })
    }

    async fn wrap<R: RemoteKey>(
        &self,
        remote: &R,
        key: &R::Name,
        name: &KeyUri,
        kek: &Kek,
        bundle: &BundleId,
    ) -> Result<Vec<u8>, Failure> {
        let retry = self.retry();
        let asked = with_retry(name, remote.kind(), &retry, || remote.wrap(key, kek, bundle));
        let asked = async { asked.await.map_err(Failure::from) };
        audited(name, remote.kind(), self.purpose, self.log, asked).await
    }

    async fn unwrap<R: RemoteKey>(
        &self,
        remote: &R,
        key: &R::Name,
        name: &KeyUri,
        wrapped: &[u8],
        bundle: &BundleId,
    ) -> Result<Secret, Failure> {
        let retry = self.retry();
        let asked = with_retry(name, remote.kind(), &retry, || remote.unwrap(key, wrapped, bundle));
        let asked = async { asked.await.map_err(Failure::from) };
        audited(name, remote.kind(), self.purpose, self.log, asked).await
    }

    async fn vault_value(&self, key: &VaultKv, name: &KeyUri) -> Result<Kek, Failure> {
        let vault = self.vault(name).await?;
        let asked = async {
            let retry = self.retry();
            let released = with_retry(name, vault.kind(), &retry, || vault.release(key)).await?;
            Kek::parse(&released).map_err(|error| Failure::from(error).at(name))
        };
        audited(name, vault.kind(), self.purpose, self.log, asked).await
    }

    /// The broker itself, by which alone plugins are reached.
    fn plugins_broker(&self) -> Result<&Kbs, Failure> {
        let args = KeyArgs { key_file: None, ..self.key.clone() };
        match (args.kbs_url.is_some(), self.source(&args)) {
            (true, Ok(Source::Kbs(broker))) => Ok(broker),
            (true, Err(failure)) => Err(failure),
            _ => Err(Failure::usage("plugins of a key broker are reached at the broker alone")
                .hint("Add --kbs-url and --attester; the data hub's REST reaches none")),
        }
    }

    async fn plugins_value(&self, plugin: &PluginUri, name: &KeyUri) -> Result<Kek, Failure> {
        let broker = self.plugins_broker()?;
        let asked = async {
            let retry = self.retry();
            let released =
                with_retry(name, "kbs", &retry, || broker.release_plugin(plugin)).await?;
            Kek::parse(&released).map_err(|error| Failure::from(error).at(name))
        };
        audited(name, "kbs", self.purpose, self.log, asked).await
    }

    async fn plugin_unwraps(
        &self,
        plugin: &PluginUri,
        name: &KeyUri,
        wrapped: &[u8],
    ) -> Result<Secret, Failure> {
        let broker = self.plugins_broker()?;
        let retry = self.retry();
        let asked = with_retry(name, "kbs", &retry, || broker.unwrap(plugin, wrapped));
        let asked = async { asked.await.map_err(Failure::from) };
        audited(name, "kbs", self.purpose, self.log, asked).await
    }

    async fn plugin_wraps(
        &self,
        plugin: &PluginUri,
        name: &KeyUri,
        kek: &Kek,
    ) -> Result<Vec<u8>, Failure> {
        let (Some(url), Some(admin_key)) = (&self.key.kbs_url, self.admin_key) else {
            return Err(Failure::usage(format!("{name} wraps for the broker's administrators"))
                .hint("Add --kbs-url and --admin-key"));
        };
        let broker = BrokerArgs {
            kbs_url: url.clone(),
            kbs_ca: self.key.kbs_ca.clone(),
            admin_key: admin_key.to_owned(),
        };
        let asked = crate::command::key::wrap(&broker, plugin, kek);
        audited(name, "kbs", self.purpose, self.log, asked).await
    }

    /// A file or the data hub is taken for a broker only where the arguments say so: `--key-file`
    /// is the key that opens, and would answer to any name.
    async fn named_brokers_key(&self, resource: &ResourceUri) -> Result<Kek, Failure> {
        let args = KeyArgs { key_file: None, ..self.key.clone() };
        if args.kbs_url.is_none() && args.key_source.is_none() {
            return Err(Failure::usage(format!("nothing says where {resource} is"))
                .hint(format!("Say {resource}=FILE, or name its broker with --kbs-url")));
        }
        self.brokers_key(&args, resource).await
    }

    async fn brokers_key(&self, args: &KeyArgs, resource: &ResourceUri) -> Result<Kek, Failure> {
        let source = self.source(args)?;
        key_source::release(source, resource, self.purpose, args, self.log).await
    }

    fn source(&self, args: &KeyArgs) -> Result<&Source, Failure> {
        if self.broker.get().is_none() {
            // Whoever was first, if it could be two: both are the same.
            let _ = self.broker.set(key_source::open(args)?);
        }
        Ok(self.broker.get().expect("it was set"))
    }

    fn retry(&self) -> Retry {
        Retry { deadline: self.key.key_timeout, ..Retry::default() }
    }

    fn http(&self, ca_bundle: Option<&PathBuf>) -> HttpSettings {
        HttpSettings {
            ca_bundle: ca_bundle.cloned(),
            timeout: REQUEST_TIMEOUT.min(self.key.key_timeout),
            // Their answers hold keys as they are: never without TLS to another machine.
            insecure_dev: false,
        }
    }

    fn gcp_kms(&self) -> GcpKms {
        GcpKms::new(GcpKmsSettings {
            endpoint: self.remote.gcp_kms_endpoint.clone(),
            variables: variables(&GcpKms::VARIABLES),
            http: self.http(None),
        })
    }

    fn azure_kms(&self) -> AzureKms {
        AzureKms::new(AzureKmsSettings {
            endpoint: self.remote.azure_kms_endpoint.clone(),
            variables: variables(&AzureKms::VARIABLES),
            http: self.http(None),
        })
    }

    fn aws_kms(&self) -> AwsKms {
        AwsKms::new(AwsKmsSettings {
            endpoint: self.remote.aws_kms_endpoint.clone(),
            variables: variables(&AwsKms::VARIABLES),
            http: self.http(self.remote.aws_kms_ca.as_ref()),
        })
    }

    fn pkcs11(&self) -> Result<Pkcs11, Failure> {
        let args = self.remote;
        let module = args.pkcs11_module.clone().ok_or_else(|| {
            Failure::usage("the key is in a PKCS#11 token, and no library is named")
                .hint("Add --pkcs11-module")
        })?;
        let pin = match &args.pkcs11_pin_file {
            Some(file) => Pin::File(file.clone()),
            None => Pin::Given(variable("SEALIFT_PKCS11_PIN").ok_or_else(|| {
                Failure::usage("the token's PIN is not given")
                    .hint("Add --pkcs11-pin-file, or set SEALIFT_PKCS11_PIN")
            })?),
        };
        let beside = || std::env::current_exe().map(|own| own.with_file_name("sealift-pkcs11"));
        let helper = args.pkcs11_helper.clone().or_else(|| beside().ok());
        Ok(Pkcs11::new(Pkcs11Settings {
            helper: helper.unwrap_or_else(|| "sealift-pkcs11".into()),
            module,
            pin,
            timeout: REQUEST_TIMEOUT.min(self.key.key_timeout),
        }))
    }

    /// With what a key broker says of this guest, and has signed.
    async fn attested_login(&self, about: &KeyUri) -> Result<Login, Failure> {
        let (mount, role) = mount_and_role(self.remote, "jwt")?;
        let Source::Kbs(broker) = self.source(self.key)? else {
            return Err(needed("--kbs-url: the broker whose token it is"));
        };
        let asked = async {
            let retry = self.retry();
            Ok(with_retry(about, "kbs", &retry, || broker.token(about)).await?)
        };
        let token = audited(about, "kbs", "login", self.log, asked).await?;
        Ok(Login::Jwt { mount, role, jwt: Jwt::Given(Arc::new(token)) })
    }

    async fn vault(&self, about: &KeyUri) -> Result<Vault, Failure> {
        let args = self.remote;
        let address = args.vault_addr.clone().ok_or_else(|| {
            Failure::usage("the key is in Vault, and no address is given").hint("Add --vault-addr")
        })?;
        let settings = VaultSettings {
            address,
            namespace: args.vault_namespace.clone(),
            login: match args.vault_auth {
                VaultAuth::Attestation => self.attested_login(about).await?,
                _ => vault_login(args)?,
            },
            http: self.http(args.vault_ca.as_ref()),
        };
        Ok(Vault::new(&settings)?)
    }
}

/// Where the method is mounted, and the role to be.
fn mount_and_role(args: &RemoteArgs, method: &str) -> Result<(String, String), Failure> {
    let mount = args.vault_auth_mount.clone().unwrap_or_else(|| method.to_owned());
    Ok((mount, args.vault_role.clone().ok_or_else(|| needed("--vault-role"))?))
}

fn needed(what: &str) -> Failure {
    Failure::usage(format!("to log in to Vault so, give {what}"))
}

fn vault_login(args: &RemoteArgs) -> Result<Login, Failure> {
    let (method, file) = match args.vault_auth {
        VaultAuth::Token => {
            if let Some(file) = &args.vault_token_file {
                return Ok(Login::TokenFile(file.clone()));
            }
            let token = variable("VAULT_TOKEN");
            let token = token.ok_or_else(|| needed("--vault-token-file or VAULT_TOKEN"))?;
            return Ok(Login::Token(token));
        }
        VaultAuth::Kubernetes => ("kubernetes", Some(SERVICE_ACCOUNT_TOKEN.into())),
        VaultAuth::Jwt | VaultAuth::Attestation => ("jwt", None),
    };
    let (mount, role) = mount_and_role(args, method)?;
    let file = args.vault_jwt_file.clone().or(file).ok_or_else(|| needed("--vault-jwt-file"))?;
    Ok(Login::Jwt { mount, role, jwt: Jwt::File(file) })
}

fn refuse_file(name: &KeyUri, file: Option<&Path>) -> Result<(), Failure> {
    match file {
        Some(file) => Err(Failure::usage(format!("{name} is never released, so it is no file"))
            .at(file.display())
            .hint("Leave the file out")),
        None => Ok(()),
    }
}

/// Both callers have asked [`KeyUri::unwraps`] before.
fn never_wrapped(name: &KeyUri) -> Failure {
    Failure::new(Code::Bug, format!("{name} was taken for a key that unwraps"))
}

/// Those of these variables that are set.
fn variables(names: &[&str]) -> HashMap<String, String> {
    let set = |name: &&str| Some(((*name).to_owned(), std::env::var(name).ok()?));
    names.iter().filter_map(set).collect()
}

/// A secret in a variable, unless it is empty.
fn variable(name: &str) -> Option<Arc<Secret>> {
    let value = std::env::var(name).ok()?;
    let secret = Secret::take(&mut value.into_bytes()).ok()?;
    (!secret.is_empty()).then(|| Arc::new(secret))
}
