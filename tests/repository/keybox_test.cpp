#include "repository/keybox.h"

#include "base/file.h"
#include "repository/blob_store_suite.h"
#include "support/memory_store.h"

namespace isr {
namespace {

using test::kind_thrown_by;
using test::MemoryStore;
using test::text_bytes;

const ScryptParams kFast{.n = 1U << 15U};

const UserKeys& alice() {
  static const UserKeys keys = generate_user_keys("alice");
  return keys;
}
const SecretKey kRecovery(Key{.value = {1, 2, 3, 4, 5}});

const Bytes& box() {
  static const Bytes made = make_keybox(alice(), "correct horse", kRecovery, kFast);
  return made;
}

bool same(const UserKeys& a, const UserKeys& b) {
  return serialise_user_keys(a) == serialise_user_keys(b) && a.signing.public_key == b.signing.public_key;
}

Bytes altered(const std::string& from, const std::string& to) {
  std::string text(as_text(box()));
  const auto at = text.find(from);
  REQUIRE(at != std::string::npos);
  return text_bytes(text.replace(at, from.size(), to));
}

TEST_CASE("a keybox opens with the password and with the recovery key", "[repository]") {
  CHECK(same(open_keybox(box(), "alice", "correct horse"), alice()));
  CHECK(same(open_keybox(box(), "alice", kRecovery), alice()));
  CHECK(as_text(box()).find("correct") == std::string_view::npos);
}

TEST_CASE("a keybox of version 1 of the format can always be opened", "[repository]") {
  const Bytes golden = read_file(std::string(ISR_GOLDEN_DIR) + "/keybox/v1", 16384);
  const UserKeys keys = open_keybox(golden, "alice", "a golden password");
  CHECK(keys.user == "alice");
  CHECK((keys.signing.seed == Key{.value = {1}}));
  CHECK((keys.exchange_secret == Key{.value = {2}}));
  CHECK((keys.domain_secret == Key{.value = {3}}));
  CHECK((keys.profile_key == Key{.value = {4}}));
  CHECK(same(open_keybox(golden, "alice", Key{.value = {5}}), keys));
}

TEST_CASE("a new passphrase replaces the old one; keys and recovery key stay", "[repository]") {
  const KeyboxSecret secret = GENERATE(KeyboxSecret("correct horse"), KeyboxSecret(kRecovery));
  const Bytes changed = with_new_passphrase(box(), "alice", secret, "new horse", kFast);
  CHECK(same(open_keybox(changed, "alice", "new horse"), alice()));
  CHECK(same(open_keybox(changed, "alice", kRecovery), alice()));
  CHECK(kind_thrown_by([&] { open_keybox(changed, "alice", "correct horse"); }) == ErrorKind::kDenied);
  CHECK(same(open_keybox(box(), "alice", "correct horse"), alice()));
  CHECK(kind_thrown_by([&] { with_new_passphrase(box(), "alice", secret, "", kFast); }) == ErrorKind::kUsage);
  CHECK(kind_thrown_by([&] { with_new_passphrase(box(), "alice", "wrong", "x", kFast); }) == ErrorKind::kDenied);
  CHECK(kind_thrown_by([&] { with_new_passphrase(box(), "alice", Key{}, "x", kFast); }) == ErrorKind::kDenied);
  CHECK(kind_thrown_by([&] { with_new_passphrase(box(), "bob", secret, "x", kFast); }) == ErrorKind::kDenied);
}

TEST_CASE("a wrong password, name or recovery key is denied", "[repository]") {
  for (const std::string& password :
       {std::string(), std::string("correct horse "), std::string("Correct horse"), std::string("correct\nhorse"),
        std::string("\xff\xfe"), std::string(1 << 20, 'x')}) {
    CHECK(kind_thrown_by([&] { open_keybox(box(), "alice", password); }) == ErrorKind::kDenied);
  }
  CHECK(kind_thrown_by([&] { open_keybox(box(), "bob", "correct horse"); }) == ErrorKind::kDenied);
  CHECK(kind_thrown_by([&] { open_keybox(altered("alice", "mallo"), "alice", "correct horse"); }) ==
        ErrorKind::kDenied);
  CHECK(kind_thrown_by([&] { open_keybox(altered("alice", "mallo"), "mallo", "correct horse"); }) ==
        ErrorKind::kDenied);
  CHECK(kind_thrown_by([&] { open_keybox(box(), "alice", Key{}); }) == ErrorKind::kDenied);
  CHECK(kind_thrown_by([&] { open_keybox(box(), "bob", kRecovery); }) == ErrorKind::kDenied);
  CHECK(kind_thrown_by([&] { make_keybox(alice(), "", kRecovery, kFast); }) == ErrorKind::kUsage);
}

TEST_CASE("a damaged keybox, or one that asks for absurd work, is refused before any work is done", "[repository]") {
  // None of these may run scrypt: what it would need, this machine does not have.
  const std::vector<std::pair<std::string, std::string>> changes = {
      {"\"n\":32768", "\"n\":2"},
      {"\"n\":32768", "\"n\":1099511627776"},
      {"\"n\":32768", "\"n\":32769"},
      {"\"n\":32768", "\"n\":0"},
      {"\"n\":32768", "\"n\":4294967296"},
      {"\"n\":32768", "\"n\":-32768"},
      {"\"r\":8", "\"r\":1073741824"},
      {"\"r\":8", "\"r\":0"},
      {"\"p\":1", "\"p\":1073741824"},
      {"\"p\":1", "\"p\":0"},
      {"isr1-keybox", "isr2-keybox"},
      {"\"recovery\"", "\"passphrase\""},
      {"\"passphrase\"", "\"recovery\""},
      {"{\"format\"", " {\"format\""},
      {"\"user\":\"alice\"", "\"user\":\"alice\",\"user\":\"alice\""},
      {"\"salt\":\"", "\"salt\":\"AAAA"},
      {"\"salt\":\"", "\"salt\":\"\",\"tlas\":\""},
      {"\"box\":\"", "\"box\":\"!"},
      {"}\n", "}"},
      {"}\n", "}\n\n"},
  };
  for (const auto& [from, to] : changes) {
    INFO(from << " -> " << to);
    CHECK(kind_thrown_by([&] { open_keybox(altered(from, to), "alice", "correct horse"); }) == ErrorKind::kCorrupt);
  }
  for (const Bytes& bad : {Bytes{}, text_bytes("{}"), text_bytes("<html>"), Bytes(20000, '['), Bytes(100, 0)}) {
    CHECK(kind_thrown_by([&] { open_keybox(bad, "alice", "correct horse"); }) == ErrorKind::kCorrupt);
  }
}

TEST_CASE("a changed byte anywhere in a keybox never gives other keys", "[repository]") {
  // By the recovery key, since scrypt at each byte would take minutes. What only the password's slot
  // holds may change without notice here; then the keys are the right ones.
  for (std::size_t byte = 0; byte < box().size(); ++byte) {
    try {
      const auto keys = open_keybox(test::flip_bit(box(), byte * 8 + byte % 8), "alice", kRecovery);
      CHECK(same(keys, alice()));
    } catch (const Error& error) {
      CHECK((error.kind() == ErrorKind::kCorrupt || error.kind() == ErrorKind::kDenied));
    }
  }
}

TEST_CASE("serialised user keys are read strictly", "[repository]") {
  const SecretBytes secret = serialise_user_keys(alice());
  const Bytes good(secret.begin(), secret.end());
  CHECK(same(parse_user_keys(good), alice()));
  for (std::size_t size = 0; size < good.size(); ++size) {
    CHECK(kind_thrown_by([&] { parse_user_keys(ByteView(good).first(size)); }) == ErrorKind::kCorrupt);
  }
  Bytes longer = good;
  longer.push_back(0);
  CHECK(kind_thrown_by([&] { parse_user_keys(longer); }) == ErrorKind::kCorrupt);
  Bytes named = good;
  named[6] = '/';
  CHECK(kind_thrown_by([&] { parse_user_keys(named); }) == ErrorKind::kCorrupt);
}

TEST_CASE("a recovery key survives being written down, and typing errors are caught", "[repository]") {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    Key key;
    const Bytes random = test::random_bytes(Key::kSize, seed);
    std::copy(random.begin(), random.end(), key.value.begin());
    const std::string text = format_recovery_key(key);
    CHECK((parse_recovery_key(text) == key));
  }
  const std::string text = format_recovery_key(kRecovery);
  CHECK(text.size() == std::string("isr-recovery").size() + 14 * 5);
  CHECK_THAT(text, Catch::StartsWith("isr-recovery-0410"));
  std::string upper = " " + text + "\n";
  for (char& c : upper) c = static_cast<char>(::toupper(c));
  CHECK((parse_recovery_key(upper) == kRecovery));
  CHECK((parse_recovery_key(text.substr(13)) == kRecovery));

  const auto kind = [](const std::string& typed) { return kind_thrown_by([&] { parse_recovery_key(typed); }); };
  for (std::size_t i = 13; i < text.size(); ++i) {
    if (text[i] == '-') continue;
    std::string typo = text;
    typo[i] = text[i] == 'x' ? 'y' : 'x';
    CHECK(kind(typo) == ErrorKind::kUsage);
    CHECK(kind(text.substr(0, i)) == ErrorKind::kUsage);
  }
  CHECK(kind("") == ErrorKind::kUsage);
  CHECK(kind(text + "0") == ErrorKind::kUsage);
  CHECK(kind(text + "\xff") == ErrorKind::kUsage);
  CHECK(kind(std::string(1 << 20, 'a')) == ErrorKind::kUsage);
}

TEST_CASE("a repository keeps every keybox of a user, and the newest is valid", "[repository]") {
  MemoryStore store(GENERATE(MemoryStore::Listing::kYes, MemoryStore::Listing::kNo));
  CHECK_FALSE(read_keybox(store, "alice").has_value());
  put_first_keybox(store, "alice", text_bytes("first"));
  CHECK(kind_thrown_by([&] { put_first_keybox(store, "alice", text_bytes("other")); }) == ErrorKind::kUsage);
  CHECK((read_keybox(store, "alice")->blob == text_bytes("first")));
  put_next_keybox(store, "alice", 1, text_bytes("second"));
  CHECK((read_keybox(store, "alice")->blob == text_bytes("second")));
  CHECK(read_keybox(store, "alice")->n == 2);
  // Made from the first as well: a change that would undo the other's without having seen it.
  CHECK(kind_thrown_by([&] { put_next_keybox(store, "alice", 1, text_bytes("late")); }) == ErrorKind::kForked);
  CHECK((read_keybox(store, "alice")->blob == text_bytes("second")));
  put_next_keybox(store, "alice", 1, text_bytes("second"));  // the answer was lost
  CHECK(read_keybox(store, "alice")->n == 2);
  CHECK_FALSE(read_keybox(store, "bob").has_value());
}

TEST_CASE("names of users and hosts are plain", "[repository]") {
  for (const std::string good : {"a", "alice", "0day", "a.b_c-d"}) CHECK_NOTHROW(check_user_name(good));
  for (const std::string& bad :
       {std::string(), std::string(".a"), std::string("-a"), std::string("Alice"), std::string("a/b"),
        std::string("a\n"), std::string("a\0b", 3), std::string(65, 'a')}) {
    CHECK(kind_thrown_by([&] { check_user_name(bad); }) == ErrorKind::kUsage);
  }
}

}  // namespace
}  // namespace isr
