#include "account/parcel_version.h"

#include <catch2/catch.hpp>
#include <cstdlib>

#include "base/file.h"
#include "support/account_place.h"
#include "support/error_kind.h"

using namespace isr;
using test::kind_thrown;

namespace {

ChunkRef reference(std::uint8_t byte) {
  ChunkRef ref;
  ref.cid.value.fill(byte);
  ref.length = 1000;
  ref.key.value.fill(static_cast<std::uint8_t>(byte + 1));
  ref.digest.value.fill(static_cast<std::uint8_t>(byte + 2));
  ref.sha1.value.fill(static_cast<std::uint8_t>(byte + 3));
  return ref;
}

ParcelVersion suspended_version() {
  ParcelVersion version;
  version.images.push_back({"disk", ImageRole::kUser, TreeRoot{8ULL << 30U, reference(0x10)}});
  version.images.push_back({"memory", ImageRole::kMemory, TreeRoot{512ULL << 20U, reference(0x20)}});
  version.images.push_back({"device", ImageRole::kDevice, TreeRoot{90'000, reference(0x30)}});
  version.stamp = VmStamp{1, "7.2.22", "pc-q35-7.2", "Westmere-v1", "tcg", ""};
  version.message = "suspend";
  version.added_bytes = 96'468'992;
  return version;
}

ParcelVersion patched_version() {
  ParcelVersion version;
  version.images.push_back(
      {"disk", ImageRole::kUser, {{8ULL << 30U, reference(0x10)}, {{40'000, reference(0x50)}, {96, reference(0x60)}}}});
  version.images.push_back({"data", ImageRole::kUser, {{1ULL << 30U, {}}, {{500'000, reference(0x70)}}}});
  version.message = "sync";
  return version;
}

std::optional<ErrorKind> parsing(const std::string& text) {
  return kind_thrown([&] { parse_version(as_bytes(text)); });
}

ParcelEntry some_parcel() {
  ParcelEntry parcel;
  parcel.id = std::string(32, 'a');
  parcel.name = "work";
  parcel.epoch_keys.emplace(1, random_key());
  return parcel;
}

}  // namespace

TEST_CASE("a version has exactly the bytes of its golden file", "[account]") {
  const std::string file = std::string(ISR_GOLDEN_DIR) + "/version/v1";
  const Bytes golden = read_file(file, 65536);
  CHECK((encode_version(suspended_version()) == golden));
  const ParcelVersion version = parse_version(golden);
  CHECK(version.suspended());
  REQUIRE(version.find("disk") != nullptr);
  CHECK((version.find("disk")->content.tree.root == reference(0x10)));
  CHECK(version.find("disk")->content.size() == 8ULL << 30U);
  CHECK((version.vm == VmSettings{}));
  CHECK((version.stamp == suspended_version().stamp));
  CHECK(version.added_bytes == 96'468'992);
}

TEST_CASE("a version's description with anything unexpected is refused", "[account]") {
  const std::string good(as_text(encode_version(suspended_version())));
  REQUIRE_FALSE(parsing(good));
  const auto with = [&](const std::string& from, const std::string& to) {
    std::string text = good;
    REQUIRE(text.find(from) != std::string::npos);
    text.replace(text.find(from), from.size(), to);
    return parsing(text);
  };
  CHECK(with("isr1-version", "isr9-version") == ErrorKind::kUnsupported);
  CHECK(with("\"disk\"", "\"../etc/x\"") == ErrorKind::kCorrupt);
  CHECK(with("\"disk\"", "\"/abs\"") == ErrorKind::kCorrupt);
  CHECK(with("\"disk\"", "\"a\\u0000b\"") == ErrorKind::kCorrupt);
  CHECK(with("\"disk\"", "\"" + std::string(300, 'a') + "\"") == ErrorKind::kCorrupt);
  CHECK(with("\"disk\"", "\"memory\"") == ErrorKind::kCorrupt);
  CHECK(with("\"role\":\"user\"", "\"role\":\"root\"") == ErrorKind::kCorrupt);
  CHECK(with("\"role\":\"user\"", "\"role\":\"memory\"") == ErrorKind::kCorrupt);
  CHECK(with(std::to_string(8ULL << 30U), "0") == ErrorKind::kCorrupt);
  CHECK(with(std::to_string(8ULL << 30U), "-1") == ErrorKind::kCorrupt);
  CHECK(with(std::to_string(8ULL << 30U), "1e3") == ErrorKind::kCorrupt);
  CHECK(with(std::to_string(8ULL << 30U), "17592186044417") == ErrorKind::kCorrupt);
  CHECK(with("\"copy_of\":\"\"", "\"copy_of\":\"\",\"qemu_args\":\"-device vfio\"") == ErrorKind::kCorrupt);
  CHECK(with("\"copy_of\":\"\"", "\"copy_of\":\"\",\"copy_of\":\"\"") == ErrorKind::kCorrupt);
  CHECK(with("\"vm\":{", "\"vm\":{\"share\":\"/\",") == ErrorKind::kCorrupt);
  CHECK(parsing(good.substr(0, good.size() / 2)) == ErrorKind::kCorrupt);
  CHECK(parsing(good + "{}") == ErrorKind::kCorrupt);
  CHECK(parsing("") == ErrorKind::kCorrupt);
  CHECK(parsing(std::string(100'000, '[')) == ErrorKind::kCorrupt);
}

TEST_CASE("a version with a boot pack has exactly the bytes of its golden file", "[account]") {
  const Bytes golden = read_file(std::string(ISR_GOLDEN_DIR) + "/version/v1-boot-pack", 65536);
  ParcelVersion version = suspended_version();
  version.images.push_back({"bootpack", ImageRole::kBootPack, TreeRoot{4'100'096, reference(0x40)}});
  CHECK((encode_version(version) == golden));
  REQUIRE(parse_version(golden).find("bootpack") != nullptr);
  CHECK((parse_version(golden).find("bootpack")->role == ImageRole::kBootPack));
}

TEST_CASE("a version with a padded disk has exactly the bytes of its golden file", "[account]") {
  const Bytes golden = read_file(std::string(ISR_GOLDEN_DIR) + "/version/v1-padded-disk", 65536);
  ParcelVersion version;
  version.images.push_back(make_disk("disk", (8ULL << 30U) + 512));
  CHECK(version.images[0].content.size() == (8ULL << 30U) + 4096);
  version.images[0].content.tree.root = reference(0x10);
  version.message = "import";
  CHECK((encode_version(version) == golden));
  CHECK(parse_version(golden).images.at(0).original_size == (8ULL << 30U) + 512);
  CHECK(make_disk("disk", 8192).original_size == 0);
}

TEST_CASE("a version with patches has exactly the bytes of its golden file when it is encoded", "[account]") {
  const Bytes golden = read_file(std::string(ISR_GOLDEN_DIR) + "/version/v1-patches", 65536);
  CHECK((encode_version(patched_version()) == golden));
  const ParcelVersion version = parse_version(golden);
  for (const VersionImage& image : patched_version().images) {
    REQUIRE(version.find(image.name) != nullptr);
    CHECK((version.find(image.name)->content == image.content));
  }
}

TEST_CASE("a version keeps patches of an image in their order when it is encoded and parsed", "[account]") {
  ParcelVersion version = suspended_version();
  for (VersionImage& image : version.images) {
    for (std::size_t i = 0; i < kMaxPatches && rules_of(image.role).may_have_patches; ++i) {
      image.content.patches.push_back({kPatchFooterSize + i, reference(static_cast<std::uint8_t>(i + 1))});
    }
  }
  version.images[1].content.patches = {{kMaxPatchSize, reference(1)}};
  version.images[2].content.patches = {};
  const ParcelVersion parsed = parse_version(encode_version(version));
  for (std::size_t i = 0; i < version.images.size(); ++i) {
    CHECK((parsed.images.at(i).content == version.images[i].content));
  }
}

TEST_CASE("a version fits into its bounds when each of 11 images has as many patches as allowed", "[account]") {
  ParcelVersion version;
  version.message = std::string(4096, '\n');
  for (int i = 0; i < 11; ++i) {
    version.images.push_back({"disk" + std::to_string(i), ImageRole::kUser, {{kMaxImageSize, reference(1)}}});
    version.images.back().content.patches.assign(kMaxPatches, {kMaxPatchSize, reference(2)});
  }
  CHECK_FALSE(kind_thrown([&] { parse_version(encode_version(version)); }));
}

TEST_CASE("patches of an image are refused when anything in them is unexpected", "[account]") {
  const std::string good(as_text(encode_version(patched_version())));
  REQUIRE_FALSE(parsing(good));
  const std::size_t begin = good.find("[{\"root\"");
  const std::size_t end = good.find(']', begin) + 1;
  REQUIRE(begin < end);
  const std::string patches = good.substr(begin, end - begin);
  const auto with_patches = [&](const std::string& other) {
    std::string text = good;
    return parsing(text.replace(begin, end - begin, other));
  };
  const auto with = [&](const std::string& from, const std::string& to) {
    std::string text = patches;
    REQUIRE(text.find(from) != std::string::npos);
    return with_patches(text.replace(text.find(from), from.size(), to));
  };
  const std::string one = patches.substr(1, patches.find('}'));
  CHECK_FALSE(with_patches("[" + one + "]"));
  CHECK(with_patches("[]") == ErrorKind::kCorrupt);
  CHECK(with_patches("{}") == ErrorKind::kCorrupt);
  CHECK(with_patches("null") == ErrorKind::kCorrupt);
  CHECK(with_patches("[[]]") == ErrorKind::kCorrupt);
  CHECK(with_patches("[" + one + ",7]") == ErrorKind::kCorrupt);
  CHECK(with("\"size\":40000", "\"size\":31") == ErrorKind::kCorrupt);
  CHECK(with("\"size\":40000", "\"size\":17592186044417") == ErrorKind::kCorrupt);
  CHECK(with("\"size\":40000", "\"size\":-40000") == ErrorKind::kCorrupt);
  CHECK(with("\"size\":40000", "\"size\":\"40000\"") == ErrorKind::kCorrupt);
  CHECK(with(",\"size\":40000", "") == ErrorKind::kCorrupt);
  CHECK(with("\"size\":40000", "\"size\":40000,\"name\":\"x\"") == ErrorKind::kCorrupt);
  CHECK(with("\"size\":40000", "\"size\":40000,\"patches\":[" + one + "]") == ErrorKind::kCorrupt);
  CHECK(with("\"root\":\"", "\"root\":\"?") == ErrorKind::kCorrupt);
  CHECK(with("\"root\":\"", "\"root\":\"AAAA") == ErrorKind::kCorrupt);
}

TEST_CASE("patches of an image are refused when there are too many or one is all zero", "[account]") {
  ParcelVersion version = patched_version();
  auto& patches = version.images[0].content.patches;
  const auto kind = [&] { return kind_thrown([&] { parse_version(encode_version(version)); }); };
  SECTION("too many") {
    patches.assign(kMaxPatches, {96, reference(1)});
    REQUIRE_FALSE(kind());
    patches.push_back({96, reference(1)});
  }
  SECTION("a zero root") { patches[1].root = {}; }
  SECTION("a size below the footer's") { patches[1].size = kPatchFooterSize - 1; }
  SECTION("a size above the largest") { patches[1].size = kMaxPatchSize + 1; }
  CHECK(kind() == ErrorKind::kCorrupt);
}

TEST_CASE("a version is refused when its device state or boot pack has patches", "[account]") {
  for (const ImageRole role : {ImageRole::kDevice, ImageRole::kBootPack}) {
    ParcelVersion version = suspended_version();
    version.images.push_back({"bootpack", ImageRole::kBootPack, TreeRoot{90'000, reference(0x40)}});
    for (VersionImage& image : version.images) {
      if (image.role == role) image.content.patches = {{kPatchFooterSize, reference(1)}};
    }
    CHECK(kind_thrown([&] { parse_version(encode_version(version)); }) == ErrorKind::kCorrupt);
  }
}

TEST_CASE("a head lists the roots of trees and patches when a version is published", "[account]") {
  const test::AccountPlace place;
  const ParcelEntry parcel = some_parcel();
  const HeadPlace first{1, {}, {}};
  const Bytes blob = make_head(place.account, parcel, first, patched_version());
  const Head head = decode_head(blob, place.account.identity.signing.public_key, parcel.chain(), 1);
  const std::vector<Cid> wanted = {reference(0x10).cid, reference(0x50).cid, reference(0x60).cid, reference(0x70).cid};
  CHECK((head.roots == wanted));
  CHECK((open_version(parcel, head).images.at(0).content == patched_version().images[0].content));
}

TEST_CASE("no head is made of a version that a reader would refuse", "[account]") {
  const test::AccountPlace place;
  const ParcelEntry parcel = some_parcel();
  ParcelVersion version = patched_version();
  SECTION("patches of a role that may have none") {
    version.images.push_back({"device", ImageRole::kDevice, {TreeRoot{4096, reference(1)}, {{4096, reference(2)}}}});
  }
  SECTION("a boot pack without memory") {
    version.images.push_back({"bootpack", ImageRole::kBootPack, TreeRoot{4096, reference(1)}});
  }
  CHECK(kind_thrown([&] { make_head(place.account, parcel, {1, {}, {}}, version); }) == ErrorKind::kBug);
}

TEST_CASE("an original size that padding cannot explain is refused", "[account]") {
  const auto parsing_with = [](ImageRole role, std::uint64_t size, std::uint64_t original) {
    ParcelVersion version;
    version.images.push_back({role == ImageRole::kUser ? "disk" : "bootpack", role, TreeRoot{size, {}}, original});
    return kind_thrown([&] { parse_version(encode_version(version)); });
  };
  CHECK_FALSE(parsing_with(ImageRole::kUser, 8192, 4097));
  for (const std::uint64_t original : {4096U, 8192U, 8193U, 1U}) {
    CHECK(parsing_with(ImageRole::kUser, 8192, original) == ErrorKind::kCorrupt);
  }
  CHECK(parsing_with(ImageRole::kUser, 8191, 8190) == ErrorKind::kCorrupt);
  CHECK(parsing_with(ImageRole::kBootPack, 8192, 8000) == ErrorKind::kCorrupt);
}

TEST_CASE("a boot pack has a name of its own that no disk may have", "[account]") {
  for (const auto& [name, role] : {std::pair("bootpack", ImageRole::kUser), std::pair("pack", ImageRole::kBootPack),
                                   std::pair("device", ImageRole::kBootPack)}) {
    ParcelVersion version;
    version.images.push_back({name, role, TreeRoot{4096, {}}});
    CHECK(kind_thrown([&] { parse_version(encode_version(version)); }) == ErrorKind::kCorrupt);
  }
}

TEST_CASE("a version has 1 to 11 images", "[account]") {
  ParcelVersion version;
  CHECK(kind_thrown([&] { parse_version(encode_version(version)); }) == ErrorKind::kCorrupt);
  for (int i = 0; i < 12; ++i)
    version.images.push_back({"disk" + std::to_string(i), ImageRole::kUser, TreeRoot{4096, {}}});
  CHECK(kind_thrown([&] { parse_version(encode_version(version)); }) == ErrorKind::kCorrupt);
  version.images.pop_back();
  CHECK(parse_version(encode_version(version)).images.size() == 11);
}

TEST_CASE("a message that is not UTF-8 is kept readable, and one that is too long is refused", "[account]") {
  ParcelVersion version = suspended_version();
  version.message = "a\xff";
  CHECK(parse_version(encode_version(version)).message == "a\xef\xbf\xbd");
  version.message.assign(4097, 'x');
  CHECK(kind_thrown([&] { encode_version(version); }) == ErrorKind::kUsage);
}
