#pragma once

#include <array>
#include <initializer_list>
#include <optional>
#include <string_view>

#include "base/bytes.h"
#include "base/secret.h"

/// The primitives that the formats name, over OpenSSL 3. All except random_bytes() are pure.
/// Errors: a failure inside OpenSSL is Error{kBug}. Each function says how it reports bad input.
/// Threads: all functions may be called from many threads.
namespace isr {

Sha256 sha256(ByteView data);
Cid cid_of(ByteView object);
Sha1 sha1(ByteView data);
/// HMAC over the concatenation of parts.
Key hmac_sha256(ByteView key, std::initializer_list<ByteView> parts);
SecretKey hkdf_sha256(ByteView secret, ByteView salt, std::string_view info);
void random_bytes(MutableBytes out);
SecretKey random_key();
/// Overwrites secrets in a way that the compiler does not optimise away.
void wipe(MutableBytes bytes) noexcept;

inline constexpr std::size_t kNonceSize = 12;
inline constexpr std::size_t kTagSize = 16;
using Nonce = FixedBytes<kNonceSize, struct NonceTag>;

/// AES-256-GCM. out.size() == in.size(); in and out may be the same memory.
/// `aad` parts are authenticated in order. Returns the tag.
std::array<std::uint8_t, kTagSize> gcm_seal(const Key& key, const Nonce& nonce, std::initializer_list<ByteView> aad,
                                            ByteView in, MutableBytes out);
/// False (and out wiped) when the tag does not match. out.size() == in.size().
[[nodiscard]] bool gcm_open(const Key& key, const Nonce& nonce, std::initializer_list<ByteView> aad, ByteView in,
                            ByteView tag, MutableBytes out);

/// nonce | ciphertext | tag, with a random 96-bit nonce. For the few small blobs sealed under a long-lived key (heads,
/// keyboxes).
Bytes seal_box(const Key& key, ByteView aad, ByteView plaintext);
/// nullopt when the tag does not match or the box is too short.
std::optional<Bytes> open_box(const Key& key, ByteView aad, ByteView box);
inline constexpr std::size_t kBoxOverhead = kNonceSize + kTagSize;
/// As above, but decrypts into memory of the caller. Also returns false unless box.size() == kBoxOverhead + out.size().
[[nodiscard]] bool open_box(const Key& key, ByteView aad, ByteView box, MutableBytes out);

using PublicKey = FixedBytes<32, struct PublicKeyTag>;
using Signature = FixedBytes<64, struct SignatureTag>;
/// An Ed25519 pair; `seed` is the RFC 8032 private key.
struct SigningKey {
  SecretKey seed;
  PublicKey public_key;
};
SigningKey signing_key_from_seed(const Key& seed);
Signature sign(const SigningKey& key, ByteView message);
bool verify_signature(const PublicKey& key, ByteView message, ByteView signature) noexcept;

struct ScryptParams {
  std::uint64_t n = 1U << 17U;
  std::uint32_t r = 8;
  std::uint32_t p = 1;
};
/// Checks parameters that come from outside, before scrypt(). Error{kCorrupt} when N is below 2^15 or scrypt() would
/// refuse them.
void check_scrypt_params(const ScryptParams& params);
/// Error{kCorrupt} when N is not a power of two, the memory needed is above 512 MiB, or 128 N r p is above 2 GiB (some
/// 10 s of work).
SecretKey scrypt(ByteView password, ByteView salt, const ScryptParams& params);

}  // namespace isr
