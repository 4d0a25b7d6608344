// OpenSSL 3 looks an algorithm up by name at every use of the old-style calls,
// which costs as much as hashing a kilobyte. So algorithms are fetched once for
// the process, and the hot ones (SHA, GCM, HMAC) keep one context a thread.
#include "base/crypto.h"

#include <fmt/format.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <openssl/rand.h>

#include <bit>
#include <limits>

#include "base/error.h"
#include "base/handle.h"

namespace isr {
namespace {

using MdCtx = std::unique_ptr<EVP_MD_CTX, FreeWith<EVP_MD_CTX_free>>;
using MacCtx = std::unique_ptr<EVP_MAC_CTX, FreeWith<EVP_MAC_CTX_free>>;
using KdfCtx = std::unique_ptr<EVP_KDF_CTX, FreeWith<EVP_KDF_CTX_free>>;
using CipherCtx = std::unique_ptr<EVP_CIPHER_CTX, FreeWith<EVP_CIPHER_CTX_free>>;
using Pkey = std::unique_ptr<EVP_PKEY, FreeWith<EVP_PKEY_free>>;

[[noreturn]] void fail(std::string_view what) {
  char text[256] = "no reason given";
  const auto code = ERR_get_error();
  if (code != 0) ERR_error_string_n(code, text, sizeof text);
  ERR_clear_error();
  if (ERR_GET_REASON(code) == ERR_R_MALLOC_FAILURE)
    throw Error(ErrorKind::kFailed, fmt::format("out of memory: {}", what));
  throw Error(ErrorKind::kBug, fmt::format("OpenSSL: {}: {}", what, text));
}

void check(int result, std::string_view what) {
  if (result != 1) fail(what);
}

template <class T>
T* check(T* result, std::string_view what) {
  if (result == nullptr) fail(what);
  return result;
}

/// A pointer that is never null, because OpenSSL takes null for "not given".
const std::uint8_t* data_of(ByteView bytes) noexcept {
  static constexpr std::uint8_t kNothing = 0;
  return bytes.empty() ? &kNothing : bytes.data();
}

// The fetched algorithms are never freed: threads may still use them at exit.
const EVP_MD* sha256_algorithm() {
  static const EVP_MD* const md = check(EVP_MD_fetch(nullptr, "SHA256", nullptr), "fetch SHA256");
  return md;
}
const EVP_MD* sha1_algorithm() {
  static const EVP_MD* const md = check(EVP_MD_fetch(nullptr, "SHA1", nullptr), "fetch SHA1");
  return md;
}
const EVP_CIPHER* gcm_algorithm() {
  static const EVP_CIPHER* const cipher = check(EVP_CIPHER_fetch(nullptr, "AES-256-GCM", nullptr), "fetch AES-256-GCM");
  return cipher;
}
EVP_MAC* hmac_algorithm() {
  static EVP_MAC* const mac = check(EVP_MAC_fetch(nullptr, "HMAC", nullptr), "fetch HMAC");
  return mac;
}
EVP_KDF* hkdf_algorithm() {
  static EVP_KDF* const kdf = check(EVP_KDF_fetch(nullptr, "HKDF", nullptr), "fetch HKDF");
  return kdf;
}

template <class Hash>
Hash digest(const EVP_MD* algorithm, ByteView data) {
  thread_local const MdCtx ctx(check(EVP_MD_CTX_new(), "digest context"));  // one a thread and Hash
  Hash out;
  check(EVP_DigestInit_ex(ctx.get(), algorithm, nullptr), "digest init");
  check(EVP_DigestUpdate(ctx.get(), data.data(), data.size()), "digest update");
  check(EVP_DigestFinal_ex(ctx.get(), out.value.data(), nullptr), "digest final");
  return out;
}

MacCtx make_hmac_context() {
  MacCtx ctx(check(EVP_MAC_CTX_new(hmac_algorithm()), "HMAC context"));
  char name[] = "SHA256";
  const OSSL_PARAM params[] = {OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, name, 0),
                               OSSL_PARAM_construct_end()};
  check(EVP_MAC_CTX_set_params(ctx.get(), params), "HMAC digest");
  return ctx;
}

CipherCtx make_gcm_context() {
  CipherCtx ctx(check(EVP_CIPHER_CTX_new(), "GCM context"));
  check(EVP_CipherInit_ex2(ctx.get(), gcm_algorithm(), nullptr, nullptr, 1, nullptr), "GCM cipher");
  return ctx;
}

/// Runs GCM except for the tag. OpenSSL counts in int, so long inputs go in pieces.
EVP_CIPHER_CTX* run_gcm(bool seal, const Key& key, const Nonce& nonce, std::initializer_list<ByteView> aad, ByteView in,
                        MutableBytes out) {
  constexpr std::size_t kPiece = std::size_t{1} << 30U;
  thread_local const CipherCtx owner = make_gcm_context();
  EVP_CIPHER_CTX* const ctx = owner.get();
  if (in.size() != out.size()) throw Error(ErrorKind::kBug, "GCM: in and out differ in size");
  check(EVP_CipherInit_ex2(ctx, nullptr, key.value.data(), nonce.value.data(), seal ? 1 : 0, nullptr), "GCM init");
  int written = 0;
  for (ByteView part : aad) {
    while (!part.empty()) {
      const auto piece = part.first(std::min(part.size(), kPiece));
      check(EVP_CipherUpdate(ctx, nullptr, &written, piece.data(), static_cast<int>(piece.size())), "GCM aad");
      part = part.subspan(piece.size());
    }
  }
  for (std::size_t done = 0; done < in.size();) {
    const std::size_t piece = std::min(in.size() - done, kPiece);
    check(EVP_CipherUpdate(ctx, out.data() + done, &written, in.data() + done, static_cast<int>(piece)), "GCM update");
    done += piece;
  }
  return ctx;
}

constexpr Key kNoKey{};

/// Removes the key from a thread's context, which lies in ordinary memory and must hold no key between two calls.
void forget_key(EVP_CIPHER_CTX* ctx) {
  constexpr Nonce kNoNonce{};
  check(EVP_CipherInit_ex2(ctx, nullptr, kNoKey.value.data(), kNoNonce.value.data(), 1, nullptr), "GCM end");
}

Pkey private_key(const Key& seed) {
  return Pkey(check(EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, nullptr, seed.value.data(), Key::kSize),
                    "Ed25519 private key"));
}

// The limits on scrypt parameters that come from outside: the 128 MiB that isr itself uses, and as much work as filling
// 2 GiB, which takes about 10 s on a slow machine.
constexpr std::uint64_t kScryptMemoryLimit = std::uint64_t{129} << 20U;
constexpr std::uint64_t kScryptWorkLimit = std::uint64_t{2} << 30U;
constexpr std::uint64_t kScryptLeastN = 1U << 15U;

/// Memory as OpenSSL counts it: V, the scratch blocks and B, in bytes.
std::uint64_t scrypt_memory(const ScryptParams& params) {
  return 128 * std::uint64_t{params.r} * (params.n + 2 + params.p);
}

bool is_scrypt_possible(const ScryptParams& params) {  // RFC 7914 section 2
  return std::has_single_bit(params.n) && params.n > 1 && params.r > 0 && params.p > 0 &&
         (params.r > 3 || params.n < std::uint64_t{1} << (16 * params.r));
}

bool is_scrypt_affordable(const ScryptParams& params) {
  constexpr std::uint64_t kMost = kScryptMemoryLimit / 128;
  // Each factor is bounded first, so that no product can overflow.
  return params.n <= kMost && params.r <= kMost && params.p <= kMost && scrypt_memory(params) <= kScryptMemoryLimit &&
         params.n * params.r <= kScryptWorkLimit / 128 / params.p;
}

void check_scrypt_cost(const ScryptParams& params) {
  if (!is_scrypt_possible(params) || !is_scrypt_affordable(params)) {
    throw Error(ErrorKind::kCorrupt,
                fmt::format("scrypt parameters N={} r={} p={} are refused", params.n, params.r, params.p));
  }
}

}  // namespace

Sha256 sha256(ByteView data) { return digest<Sha256>(sha256_algorithm(), data); }
Cid cid_of(ByteView object) { return digest<Cid>(sha256_algorithm(), object); }
Sha1 sha1(ByteView data) { return digest<Sha1>(sha1_algorithm(), data); }

Key hmac_sha256(ByteView key, std::initializer_list<ByteView> parts) {
  thread_local const MacCtx ctx = make_hmac_context();
  check(EVP_MAC_init(ctx.get(), data_of(key), key.size(), nullptr), "HMAC init");
  for (const ByteView part : parts) {
    if (!part.empty()) check(EVP_MAC_update(ctx.get(), part.data(), part.size()), "HMAC update");
  }
  Key out;
  std::size_t size = 0;
  check(EVP_MAC_final(ctx.get(), out.value.data(), &size, Key::kSize), "HMAC final");
  check(EVP_MAC_init(ctx.get(), kNoKey.value.data(), Key::kSize, nullptr), "HMAC end");  // as forget_key()
  return out;
}

SecretKey hkdf_sha256(ByteView secret, ByteView salt, std::string_view info) {
  const KdfCtx ctx(check(EVP_KDF_CTX_new(hkdf_algorithm()), "HKDF context"));
  char name[] = "SHA256";
  const auto octets = [](const char* parameter, ByteView bytes) {
    return OSSL_PARAM_construct_octet_string(parameter, const_cast<std::uint8_t*>(data_of(bytes)), bytes.size());
  };
  const OSSL_PARAM params[] = {OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, name, 0),
                               octets(OSSL_KDF_PARAM_KEY, secret), octets(OSSL_KDF_PARAM_SALT, salt),
                               octets(OSSL_KDF_PARAM_INFO, as_bytes(info)), OSSL_PARAM_construct_end()};
  SecretKey out;
  check(EVP_KDF_derive(ctx.get(), out.mutable_view().data(), Key::kSize, params), "HKDF");
  return out;
}

void random_bytes(MutableBytes out) {
  while (!out.empty()) {
    const auto piece = out.first(std::min<std::size_t>(out.size(), std::numeric_limits<int>::max()));
    check(RAND_bytes(piece.data(), static_cast<int>(piece.size())), "random bytes");
    out = out.subspan(piece.size());
  }
}

SecretKey random_key() {
  SecretKey key;
  check(RAND_priv_bytes(key.mutable_view().data(), Key::kSize), "random key");
  return key;
}

void wipe(MutableBytes bytes) noexcept {
  if (!bytes.empty()) OPENSSL_cleanse(bytes.data(), bytes.size());
}

std::array<std::uint8_t, kTagSize> gcm_seal(const Key& key, const Nonce& nonce, std::initializer_list<ByteView> aad,
                                            ByteView in, MutableBytes out) {
  EVP_CIPHER_CTX* const ctx = run_gcm(true, key, nonce, aad, in, out);
  std::array<std::uint8_t, kTagSize> tag{};
  int written = 0;
  check(EVP_CipherFinal_ex(ctx, tag.data(), &written), "GCM final");  // writes nothing: GCM has no last block
  check(EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, kTagSize, tag.data()), "GCM tag");
  forget_key(ctx);
  return tag;
}

bool gcm_open(const Key& key, const Nonce& nonce, std::initializer_list<ByteView> aad, ByteView in, ByteView tag,
              MutableBytes out) {
  if (tag.size() == kTagSize) {
    EVP_CIPHER_CTX* const ctx = run_gcm(false, key, nonce, aad, in, out);
    auto* const expected = const_cast<std::uint8_t*>(tag.data());  // only read
    check(EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_TAG, kTagSize, expected), "GCM set tag");
    std::uint8_t nothing[kTagSize];
    int written = 0;
    const bool good = EVP_CipherFinal_ex(ctx, nothing, &written) == 1;
    if (!good) ERR_clear_error();
    forget_key(ctx);
    if (good) return true;
  }
  wipe(out);
  return false;
}

Bytes seal_box(const Key& key, ByteView aad, ByteView plaintext) {
  Nonce nonce;
  random_bytes(nonce.mutable_view());
  Bytes box(kBoxOverhead + plaintext.size());
  const MutableBytes view(box);
  std::copy(nonce.value.begin(), nonce.value.end(), box.begin());
  const auto tag = gcm_seal(key, nonce, {aad}, plaintext, view.subspan(kNonceSize, plaintext.size()));
  std::copy(tag.begin(), tag.end(), box.end() - kTagSize);
  return box;
}

bool open_box(const Key& key, ByteView aad, ByteView box, MutableBytes out) {
  if (box.size() < kBoxOverhead || box.size() - kBoxOverhead != out.size()) return false;
  Nonce nonce;
  std::copy_n(box.begin(), kNonceSize, nonce.value.begin());
  return gcm_open(key, nonce, {aad}, box.subspan(kNonceSize, out.size()), box.last(kTagSize), out);
}

std::optional<Bytes> open_box(const Key& key, ByteView aad, ByteView box) {
  if (box.size() < kBoxOverhead) return std::nullopt;
  Bytes plaintext(box.size() - kBoxOverhead);
  if (!open_box(key, aad, box, plaintext)) return std::nullopt;
  return plaintext;
}

SigningKey signing_key_from_seed(const Key& seed) {
  const Pkey pkey = private_key(seed);
  SigningKey out{.seed = SecretKey(seed), .public_key = {}};
  std::size_t size = PublicKey::kSize;
  check(EVP_PKEY_get_raw_public_key(pkey.get(), out.public_key.value.data(), &size), "Ed25519 public key");
  return out;
}

Signature sign(const SigningKey& key, ByteView message) {
  const Pkey pkey = private_key(key.seed);
  const MdCtx ctx(check(EVP_MD_CTX_new(), "signing context"));
  check(EVP_DigestSignInit(ctx.get(), nullptr, nullptr, nullptr, pkey.get()), "signing init");
  Signature out;
  std::size_t size = Signature::kSize;
  check(EVP_DigestSign(ctx.get(), out.value.data(), &size, data_of(message), message.size()), "signing");
  return out;
}

bool verify_signature(const PublicKey& key, ByteView message, ByteView signature) noexcept {
  if (signature.size() != Signature::kSize) return false;
  const Pkey pkey(EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, nullptr, key.value.data(), PublicKey::kSize));
  const MdCtx ctx(EVP_MD_CTX_new());
  const bool good =
      pkey != nullptr && ctx != nullptr &&
      EVP_DigestVerifyInit(ctx.get(), nullptr, nullptr, nullptr, pkey.get()) == 1 &&
      EVP_DigestVerify(ctx.get(), signature.data(), signature.size(), data_of(message), message.size()) == 1;
  if (!good) ERR_clear_error();
  return good;
}

void check_scrypt_params(const ScryptParams& params) {
  check_scrypt_cost(params);
  if (params.n < kScryptLeastN) {
    throw Error(ErrorKind::kCorrupt, fmt::format("scrypt parameter N={} is too weak", params.n));
  }
}

SecretKey scrypt(ByteView password, ByteView salt, const ScryptParams& params) {
  check_scrypt_cost(params);
  SecretKey out;
  // Without maxmem OpenSSL stops at 32 MiB, which refuses even N=2^15, r=8.
  check(EVP_PBE_scrypt(reinterpret_cast<const char*>(data_of(password)), password.size(), data_of(salt), salt.size(),
                       params.n, params.r, params.p, scrypt_memory(params), out.mutable_view().data(), Key::kSize),
        "scrypt");
  return out;
}

}  // namespace isr
