//! One token, logged in: finds the key and asks it.

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Function, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::types::{AuthPin, Ulong};
use zeroize::Zeroizing;

use crate::Refusal;

const IV_BYTES: usize = 12;
const TAG_BYTES: usize = 16;
const KEY_BYTES: usize = 32;
/// RFC 3394 adds its check value.
const KEY_WRAP_BYTES: usize = KEY_BYTES + 8;
const GCM_BYTES: usize = IV_BYTES + KEY_BYTES + TAG_BYTES;

/// How a key is found.
pub(crate) enum Object {
    Label(Vec<u8>),
    Id(Vec<u8>),
}

/// A session with a token, logged in as its user.
pub(crate) struct Token {
    session: Session,
    mechanisms: Vec<MechanismType>,
}

impl Token {
    /// The one token with this label that `module` reaches.
    pub(crate) fn open(module: &str, label: &str, pin: &str) -> Result<Self, Refusal> {
        let context =
            Pkcs11::new(module).map_err(|error| Refusal::new("usage", error.to_string()))?;
        let initialize = CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK);
        context.initialize(initialize).map_err(refused)?;
        let mut found = None;
        for slot in context.get_slots_with_initialized_token().map_err(refused)? {
            let info = context.get_token_info(slot).map_err(refused)?;
            // Labels are padded with blanks to 32 bytes.
            if info.label().trim_end() == label && found.replace(slot).is_some() {
                return Err(Refusal::new("usage", format!("two tokens are labelled {label:?}")));
            }
        }
        let slot = found
            .ok_or_else(|| Refusal::new("token", format!("no token is labelled {label:?}")))?;
        let mechanisms = context.get_mechanism_list(slot).map_err(refused)?;
        // Objects of a session may be made in a read-only one too, and nothing else is.
        let session = context.open_ro_session(slot).map_err(refused)?;
        session.login(UserType::User, Some(&AuthPin::new(pin.into()))).map_err(refused)?;
        Ok(Self { session, mechanisms })
    }

    /// `key` wrapped by the object.
    pub(crate) fn wrap(
        &self,
        object: &Object,
        key: &[u8],
        associated_data: &[u8],
    ) -> Result<Vec<u8>, Refusal> {
        if key.len() != KEY_BYTES {
            return Err(Refusal::new("usage", "a key has 32 bytes"));
        }
        let handle = self.find(object)?;
        if self.may(handle, AttributeType::Encrypt)? && self.has(MechanismType::AES_GCM) {
            let mut wrapped = random_iv()?.to_vec();
            let mut iv = wrapped.clone();
            let sealed = self.session.encrypt(&gcm(&mut iv, associated_data)?, handle, key);
            wrapped.extend(sealed.map_err(refused)?);
            // Tokens may insist on an IV of their own, which would be another length or lost.
            if wrapped.len() != GCM_BYTES || iv != wrapped[..IV_BYTES] {
                return Err(Refusal::new("input", "the token's AES-GCM is of another shape"));
            }
            return Ok(wrapped);
        }
        if self.may(handle, AttributeType::Wrap)? && self.has(MechanismType::AES_KEY_WRAP) {
            let mut template = plain_key();
            template.push(Attribute::Value(key.to_vec()));
            let plain = self.session.create_object(&template).map_err(refused)?;
            let wrapped = self.session.wrap_key(&Mechanism::AesKeyWrap, handle, plain);
            let _ = self.session.destroy_object(plain);
            return wrapped.map_err(refused);
        }
        Err(Refusal::new(
            "usage",
            "the key may neither encrypt by AES-GCM nor wrap by AES key wrap",
        ))
    }

    /// What [`Token::wrap`] was given.
    pub(crate) fn unwrap(
        &self,
        object: &Object,
        wrapped: &[u8],
        associated_data: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, Refusal> {
        let handle = self.find(object)?;
        let plain = match wrapped.len() {
            GCM_BYTES => {
                let (iv, sealed) = wrapped.split_at(IV_BYTES);
                let mut iv = iv.to_vec();
                self.session.decrypt(&gcm(&mut iv, associated_data)?, handle, sealed)
            }
            KEY_WRAP_BYTES => self.unwrapped(handle, wrapped),
            _ => return Err(Refusal::new("input", "not of the length that an AES key wraps to")),
        };
        plain.map(Zeroizing::new).map_err(|error| match error {
            // Whatever the library calls it, a key that is there did not take these bytes.
            Error::Pkcs11(_, Function::Decrypt | Function::UnwrapKey) if !is_away(&error) => {
                Refusal::new("input", error.to_string())
            }
            error => refused(error),
        })
    }

    /// RFC 3394: the key becomes an object of this session, whose value is read.
    fn unwrapped(&self, handle: ObjectHandle, wrapped: &[u8]) -> Result<Vec<u8>, Error> {
        let mechanism = Mechanism::AesKeyWrap;
        let plain = self.session.unwrap_key(&mechanism, handle, wrapped, &plain_key())?;
        let found = self.session.get_attributes(plain, &[AttributeType::Value]);
        let _ = self.session.destroy_object(plain);
        match found?.pop() {
            Some(Attribute::Value(value)) => Ok(value),
            _ => Err(Error::InvalidValue),
        }
    }

    /// The one secret key of this name. Not RSA: whoever has its public half could wrap a key of his
    /// own, and with that seal what then opens.
    fn find(&self, object: &Object) -> Result<ObjectHandle, Refusal> {
        let name = match object {
            Object::Label(label) => Attribute::Label(label.clone()),
            Object::Id(id) => Attribute::Id(id.clone()),
        };
        let template = [Attribute::Token(true), Attribute::Class(ObjectClass::SECRET_KEY), name];
        let found = self.session.find_objects(&template).map_err(refused)?;
        let [handle] = found[..] else {
            let detail = format!("{} secret keys have this name", found.len());
            return Err(Refusal::new("key", detail));
        };
        let attributes = self.session.get_attributes(handle, &[AttributeType::KeyType]);
        match attributes.map_err(refused)?.pop() {
            Some(Attribute::KeyType(KeyType::AES)) => Ok(handle),
            _ => Err(Refusal::new("usage", "the key is no AES key")),
        }
    }

    fn may(&self, handle: ObjectHandle, attribute: AttributeType) -> Result<bool, Refusal> {
        let attributes = self.session.get_attributes(handle, &[attribute]).map_err(refused)?;
        Ok(matches!(attributes[..], [Attribute::Encrypt(true) | Attribute::Wrap(true)]))
    }

    fn has(&self, mechanism: MechanismType) -> bool {
        self.mechanisms.contains(&mechanism)
    }
}

fn gcm<'a>(iv: &'a mut [u8], associated_data: &'a [u8]) -> Result<Mechanism<'a>, Refusal> {
    const TAG_BITS: usize = 8 * TAG_BYTES;
    let bits = Ulong::try_from(TAG_BITS).map_err(refused)?;
    GcmParams::new(iv, associated_data, bits).map(Mechanism::AesGcm).map_err(refused)
}

fn random_iv() -> Result<[u8; IV_BYTES], Refusal> {
    let mut iv = [0; IV_BYTES];
    aws_lc_rs::rand::fill(&mut iv).map_err(|_| Refusal::new("token", "no randomness"))?;
    Ok(iv)
}

/// An object of this session alone, whose value may be read and wrapped.
fn plain_key() -> Vec<Attribute> {
    vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::GENERIC_SECRET),
        Attribute::Token(false),
        Attribute::Private(true),
        Attribute::Sensitive(false),
        Attribute::Extractable(true),
    ]
}

/// Whether the token, rather than what it was asked, is the trouble.
fn is_away(error: &Error) -> bool {
    use RvError as Rv;
    matches!(
        error,
        Error::Pkcs11(
            Rv::DeviceError
                | Rv::DeviceRemoved
                | Rv::DeviceMemory
                | Rv::HostMemory
                | Rv::TokenNotPresent
                | Rv::SessionClosed
                | Rv::SessionHandleInvalid
                | Rv::UserNotLoggedIn,
            _
        )
    )
}

fn refused(error: Error) -> Refusal {
    use RvError as Rv;
    let cause = match &error {
        Error::Pkcs11(
            Rv::PinIncorrect
            | Rv::PinInvalid
            | Rv::PinLenRange
            | Rv::PinExpired
            | Rv::PinLocked
            | Rv::UserPinNotInitialized,
            _,
        ) => "pin",
        Error::Pkcs11(
            Rv::KeyFunctionNotPermitted
            | Rv::KeyTypeInconsistent
            | Rv::MechanismInvalid
            | Rv::ArgumentsBad
            | Rv::MechanismParamInvalid,
            _,
        ) => "usage",
        _ => "token",
    };
    Refusal::new(cause, error.to_string())
}
