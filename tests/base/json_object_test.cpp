#include "base/json_object.h"

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include "support/error_kind.h"

using namespace isr;

TEST_CASE("a JSON object is parsed, and everything else is refused as corrupt", "[base]") {
  CHECK(parse_json_object(R"({"a":{"b":[1,2]},"c":"d"})", "it").at("c") == "d");
  const std::string deep(17, '[');
  for (const std::string& bad :
       {std::string(), std::string("[]"), std::string("1"), std::string("{"), std::string(R"({"a":1,"a":2})"),
        std::string(R"({"a":{"b":1,"b":2}})"), R"({"a":)" + deep + std::string(17, ']') + "}", std::string("{} x")}) {
    INFO(bad);
    CHECK(test::kind_thrown([&] { parse_json_object(bad, "it"); }) == ErrorKind::kCorrupt);
  }
}
