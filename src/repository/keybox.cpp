// Every slot seals the same random box key, and that key seals the user's keys. Changing the password makes a new box,
// not new user keys. All bounds are checked before scrypt runs. scrypt runs whatever the user's name is, so that a
// wrong name and a wrong password take the same time.
#include "repository/keybox.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "base/error.h"
#include "base/strict_json.h"
#include "repository/sequence.h"

namespace isr {
namespace {

constexpr std::string_view kFormat = "isr1-keybox";
constexpr std::size_t kMaxKeyboxSize = 16384;
constexpr std::size_t kSaltSize = 32;
constexpr std::size_t kWrappedKeySize = kNonceSize + Key::kSize + kTagSize;
constexpr std::size_t kMaxKeysSize = 1024;
// p multiplies scrypt's time but not its memory, so it is bounded here.
constexpr std::uint32_t kMaxScryptP = 4;
constexpr std::uint32_t kMaxScryptR = 32;

struct Keybox {
  std::string user;
  ScryptParams scrypt;
  Bytes salt;
  Bytes passphrase_slot;  ///< the box key, sealed
  Bytes recovery_slot;
  Bytes keys;
};

Bytes context_of(std::string_view purpose, const std::string& user) {
  ByteWriter out;
  out.put(as_bytes("isr1/keybox/")).put(as_bytes(purpose)).u8(0).put(as_bytes(user));
  return out.take();
}

std::string encode(const Keybox& box) {
  JsonWriter json;
  json.text("format", kFormat).text("user", box.user).open_array("slots");
  json.open_object().text("kind", "passphrase").number("n", box.scrypt.n).number("r", box.scrypt.r);
  json.number("p", box.scrypt.p).base64("salt", box.salt).base64("box", box.passphrase_slot).close_object();
  json.open_object().text("kind", "recovery").base64("box", box.recovery_slot).close_object();
  json.close_array().base64("keys", box.keys);
  return json.take() + "\n";
}

void decode_slots(const std::vector<JsonValue>& slots, const std::string& what, Keybox& box) {
  if (slots.size() != 2) throw Error(ErrorKind::kCorrupt, fmt::format("{}: it must have two slots", what));
  JsonFields passphrase(slots[0], what);
  if (passphrase.text("kind", 16) != "passphrase") passphrase.fail("kind", "is unknown");
  box.scrypt.n = passphrase.number("n", 1, std::uint64_t{1} << 32U);
  box.scrypt.r = static_cast<std::uint32_t>(passphrase.number("r", 1, kMaxScryptR));
  box.scrypt.p = static_cast<std::uint32_t>(passphrase.number("p", 1, kMaxScryptP));
  check_scrypt_params(box.scrypt);
  box.salt = passphrase.base64("salt", kSaltSize);
  if (box.salt.size() != kSaltSize) passphrase.fail("salt", "has another size");
  box.passphrase_slot = passphrase.base64("box", kWrappedKeySize);
  passphrase.expect_end();
  JsonFields recovery(slots[1], what);
  if (recovery.text("kind", 16) != "recovery") recovery.fail("kind", "is unknown");
  box.recovery_slot = recovery.base64("box", kWrappedKeySize);
  recovery.expect_end();
}

Keybox decode(ByteView blob) {
  const std::string what = "keybox";
  if (blob.size() > kMaxKeyboxSize) throw Error(ErrorKind::kCorrupt, "keybox: too large");
  const JsonValue value = parse_strict_json(as_text(blob), what);
  JsonFields fields(value, what);
  Keybox box;
  if (fields.text("format", 32) != kFormat) fields.fail("format", "is unknown");
  box.user = fields.text("user", 64);
  decode_slots(fields.array("slots", 2), what, box);
  box.keys = fields.base64("keys", kMaxKeysSize);
  fields.expect_end();
  if (encode(box) != as_text(blob)) throw Error(ErrorKind::kCorrupt, "keybox: not in canonical form");
  return box;
}

SecretKey passphrase_key(std::string_view passphrase, const Bytes& salt, const ScryptParams& params) {
  return hkdf_sha256(scrypt(as_bytes(passphrase), salt, params).view(), salt, "isr1/keybox-passphrase");
}

SecretKey recovery_slot_key(const Key& recovery_key) {
  return hkdf_sha256(recovery_key.view(), {}, "isr1/keybox-recovery");
}

SecretKey unwrap_box_key(const Keybox& box, const std::string& user, std::string_view kind, const Key& slot_key,
                         ByteView slot) {
  SecretKey box_key;
  if (!open_box(slot_key, context_of(kind, user), slot, box_key.mutable_view()) || box.user != user) {
    throw Error(ErrorKind::kDenied, kind == "passphrase" ? "password wrong" : "recovery key wrong");
  }
  return box_key;
}

SecretKey box_key_by(const Keybox& box, const std::string& user, std::string_view passphrase) {
  return unwrap_box_key(box, user, "passphrase", passphrase_key(passphrase, box.salt, box.scrypt), box.passphrase_slot);
}

SecretKey box_key_by(const Keybox& box, const std::string& user, const Key& recovery_key) {
  return unwrap_box_key(box, user, "recovery", recovery_slot_key(recovery_key), box.recovery_slot);
}

/// Opens the user keys.
UserKeys unwrap_keys(const Keybox& box, const std::string& user, const Key& box_key) {
  SecretBytes plain(box.keys.size() - std::min(box.keys.size(), kBoxOverhead));
  if (!open_box(box_key, context_of("keys", user), box.keys, plain)) {
    throw Error(ErrorKind::kCorrupt, fmt::format("keybox of {}: the keys in it are damaged", user));
  }
  UserKeys keys = parse_user_keys(plain);
  if (keys.user != user) throw Error(ErrorKind::kCorrupt, fmt::format("keybox of {}: it holds other keys", user));
  return keys;
}

void seal_passphrase_slot(Keybox& box, std::string_view passphrase, const Key& box_key, const ScryptParams& params) {
  if (passphrase.empty()) throw Error(ErrorKind::kUsage, "the password must not be empty");
  box.scrypt = params;
  box.salt.resize(kSaltSize);
  random_bytes(box.salt);
  box.passphrase_slot =
      seal_box(passphrase_key(passphrase, box.salt, params), context_of("passphrase", box.user), box_key.view());
}

std::string keybox_prefix(const std::string& user) {
  check_user_name(user);
  return fmt::format("users/{}/keybox", user);
}

// Crockford's base 32: no I, L, O or U, and letters that look alike are read alike.
constexpr std::string_view kAlphabet = "0123456789abcdefghjkmnpqrstvwxyz";
constexpr std::string_view kRecoveryPrefix = "isr-recovery-";
constexpr std::size_t kChecksumSize = 3;  // 35 bytes in all: exactly 56 digits
constexpr std::size_t kRecoveryDigits = (Key::kSize + kChecksumSize) * 8 / 5;

SecretBytes with_checksum(const Key& key) {
  const ByteView label = as_bytes("isr1/recovery-key");
  SecretBytes hashed(label.begin(), label.end());
  hashed.push_back(0);
  hashed.insert(hashed.end(), key.value.begin(), key.value.end());
  const Sha256 sum = sha256(hashed);
  SecretBytes out(key.value.begin(), key.value.end());
  out.insert(out.end(), sum.value.begin(), sum.value.begin() + kChecksumSize);
  return out;
}

/// The digits of a typed recovery key; Error{kUsage} for other characters.
SecretBytes recovery_digits(std::string_view text) {
  SecretText lower;
  for (const char c : text) {
    if (c == ' ' || c == '\t' || c == '\n' || c == '\r') continue;
    const char small = (c >= 'A' && c <= 'Z') ? static_cast<char>(c + ('a' - 'A')) : c;
    lower.append({&small, 1});
  }
  std::string_view typed = lower;
  if (typed.starts_with(kRecoveryPrefix)) typed.remove_prefix(kRecoveryPrefix.size());
  SecretBytes digits;
  for (char c : typed) {
    if (c == '-') continue;
    if (c == 'o') c = '0';
    if (c == 'i' || c == 'l') c = '1';
    const auto value = kAlphabet.find(c);
    if (value == std::string_view::npos) {
      throw Error(ErrorKind::kUsage, fmt::format("recovery key: group {} has a character that no recovery key can have",
                                                 digits.size() / 4 + 1));
    }
    digits.push_back(static_cast<std::uint8_t>(value));
  }
  return digits;
}

}  // namespace

void check_user_name(std::string_view user) {
  const auto alphanumeric = [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); };
  const bool good = !user.empty() && user.size() <= 64 && alphanumeric(user.front()) &&
                    std::all_of(user.begin(), user.end(),
                                [&](char c) { return alphanumeric(c) || c == '.' || c == '_' || c == '-'; });
  if (!good) {
    throw Error(ErrorKind::kUsage, "a user or host name is 1 to 64 of a-z 0-9 . _ - and begins with a letter or digit");
  }
}

UserKeys generate_user_keys(const std::string& user) {
  check_user_name(user);
  return {user, signing_key_from_seed(random_key()), random_key(), random_key(), random_key()};
}

SecretBytes serialise_user_keys(const UserKeys& keys) {
  check_user_name(keys.user);
  const std::array<std::uint8_t, 2> version_and_size = {1, static_cast<std::uint8_t>(keys.user.size())};
  SecretBytes out;
  for (const ByteView part :
       {as_bytes("ISRU"), ByteView(version_and_size), as_bytes(keys.user), keys.signing.seed.view(),
        keys.exchange_secret.view(), keys.domain_secret.view(), keys.profile_key.view()}) {
    out.insert(out.end(), part.begin(), part.end());
  }
  return out;
}

UserKeys parse_user_keys(ByteView bytes) {
  ByteReader reader(bytes, "user keys");
  if (as_text(reader.take(4)) != "ISRU" || reader.u8() != 1) {
    throw Error(ErrorKind::kCorrupt, "user keys: the format is unknown");
  }
  UserKeys keys;
  const std::size_t name_size = reader.u8();
  keys.user = as_text(reader.take(name_size));
  try {
    check_user_name(keys.user);
  } catch (const Error&) {
    throw Error(ErrorKind::kCorrupt, "user keys: the name is not valid");
  }
  keys.signing = signing_key_from_seed(SecretKey(reader.fixed<Key>()));
  keys.exchange_secret = reader.fixed<Key>();
  keys.domain_secret = reader.fixed<Key>();
  keys.profile_key = reader.fixed<Key>();
  reader.expect_end();
  return keys;
}

Bytes make_keybox(const UserKeys& keys, std::string_view passphrase, const Key& recovery_key,
                  const ScryptParams& params) {
  Keybox box;
  box.user = keys.user;
  const SecretKey box_key = random_key();
  seal_passphrase_slot(box, passphrase, box_key, params);
  box.recovery_slot = seal_box(recovery_slot_key(recovery_key), context_of("recovery", keys.user), box_key.view());
  box.keys = seal_box(box_key, context_of("keys", keys.user), serialise_user_keys(keys));
  return to_bytes(as_bytes(encode(box)));
}

UserKeys open_keybox(ByteView blob, const std::string& user, const KeyboxSecret& secret) {
  const Keybox box = decode(blob);
  return unwrap_keys(box, user, std::visit([&](const auto& known) { return box_key_by(box, user, known); }, secret));
}

// The box key stays, so that the recovery slot, whose key is usually not at hand, still opens it.
Bytes with_new_passphrase(ByteView blob, const std::string& user, const KeyboxSecret& secret,
                          std::string_view new_passphrase, const ScryptParams& params) {
  Keybox box = decode(blob);
  const SecretKey box_key = std::visit([&](const auto& known) { return box_key_by(box, user, known); }, secret);
  unwrap_keys(box, user, box_key);  // makes sure that a damaged box is not passed on as a good one
  seal_passphrase_slot(box, new_passphrase, box_key, params);
  return to_bytes(as_bytes(encode(box)));
}

std::string format_recovery_key(const Key& key) {
  std::string out(kRecoveryPrefix.substr(0, kRecoveryPrefix.size() - 1));
  std::uint32_t bits = 0;
  int count = 0;
  std::size_t digits = 0;
  for (const std::uint8_t byte : with_checksum(key)) {
    bits = (bits << 8U) | byte;
    for (count += 8; count >= 5; count -= 5) {
      if (digits++ % 4 == 0) out += '-';
      out += kAlphabet[(bits >> static_cast<unsigned>(count - 5)) & 31U];
    }
  }
  return out;
}

SecretKey parse_recovery_key(std::string_view text) {
  const SecretBytes digits = recovery_digits(text.substr(0, 1024));
  if (digits.size() != kRecoveryDigits) {
    throw Error(ErrorKind::kUsage, fmt::format("recovery key: it has {} groups of 4, not {} characters",
                                               kRecoveryDigits / 4, digits.size()));
  }
  SecretBytes bytes;
  std::uint32_t bits = 0;
  unsigned count = 0;
  for (const std::uint8_t digit : digits) {
    bits = (bits << 5U) | digit;
    count += 5;
    if (count >= 8) {
      count -= 8;
      bytes.push_back(static_cast<std::uint8_t>(bits >> count));
    }
  }
  SecretKey key;
  std::copy_n(bytes.begin(), Key::kSize, key.mutable_view().begin());
  if (with_checksum(key) != bytes) throw Error(ErrorKind::kUsage, "recovery key: a character is mistyped");
  return key;
}

std::optional<StoredKeybox> read_keybox(BlobStore& store, const std::string& user) {
  const std::uint64_t newest = newest_keybox_number(store, user);
  if (newest == 0) return std::nullopt;
  auto blob = store.get(sequence_name(keybox_prefix(user), newest));
  if (!blob)
    throw Error(ErrorKind::kCorrupt,
                fmt::format("the keybox of {} is in the list of the repository, but cannot be read", user));
  return StoredKeybox{newest, std::move(blob->bytes)};
}

std::uint64_t newest_keybox_number(BlobStore& store, const std::string& user) {
  return newest_in_sequence(store, keybox_prefix(user));
}

void put_first_keybox(BlobStore& store, const std::string& user, ByteView blob) {
  const bool exists = newest_keybox_number(store, user) != 0 ||
                      store.put_new(sequence_name(keybox_prefix(user), 1), blob) == PutResult::kExists;
  if (exists) throw Error(ErrorKind::kUsage, fmt::format("there is a user {} already", user));
}

void put_next_keybox(BlobStore& store, const std::string& user, std::uint64_t previous, ByteView blob) {
  if (previous >= kMaxSequence) {
    throw Error(
        ErrorKind::kCorrupt, fmt::format("the keyboxes of {} have reached the last number", user),
        {"an administrator of the repository must remove the blobs that are not keyboxes in " + keybox_prefix(user)});
  }
  const std::string name = sequence_name(keybox_prefix(user), previous + 1);
  if (store.put_new(name, blob) == PutResult::kCreated) return;
  // The box may be ours after all, when an answer was lost and the request repeated: no two boxes have the same salt.
  const auto there = store.get(name);
  if (there && std::ranges::equal(there->bytes, blob)) return;
  throw Error(ErrorKind::kForked, fmt::format("the password of {} was changed elsewhere at the same time", user),
              {"the other new password is valid; yours was not stored"});
}

}  // namespace isr
