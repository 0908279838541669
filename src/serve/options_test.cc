#include "serve/options.h"

#include <gtest/gtest.h>

namespace buoy::serve {
namespace {

TEST(ServeOptions, Addresses) {
  const auto local = parse_address("127.0.0.1:8080");
  ASSERT_TRUE(local);
  EXPECT_EQ(local->host, "127.0.0.1");
  EXPECT_EQ(local->port, 8080);
  EXPECT_TRUE(local->is_local);
  EXPECT_TRUE(parse_address("127.9.0.1:0")->is_local);
  EXPECT_TRUE(parse_address("localhost:1")->is_local);
  EXPECT_EQ(parse_address("[::1]:80")->host, "::1");
  EXPECT_TRUE(parse_address("[::1]:80")->is_local);
  EXPECT_FALSE(parse_address("0.0.0.0:80")->is_local);
  EXPECT_FALSE(parse_address("[::]:80")->is_local);
  EXPECT_FALSE(parse_address("192.168.1.2:80")->is_local);
  for (const char* wrong :
       {"", "8080", ":8080", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:65536",
        "127.0.0.1:-1", "::1:80", "[127.0.0.1]:80", "example.org:80", "127.1:80"})
    EXPECT_FALSE(parse_address(wrong)) << wrong;
}

TEST(ServeOptions, NamesOfOthersAreNotOurs) {
  const std::vector<std::string> names{"Box", "box.lan"};
  for (const char* known : {"127.0.0.1:80", "127.0.0.1", "[::1]:80", "localhost:80", "LOCALHOST",
                            "10.1.2.3:9", "box:80", "BOX", "box.lan:80"})
    EXPECT_TRUE(is_host_known(known, names)) << known;
  for (const char* unknown :
       {"", "evil.example:80", "localhost.evil.example", "127.0.0.1.evil.example:80",
        "box.evil.example", "[::1", "localhost@evil.example"})
    EXPECT_FALSE(is_host_known(unknown, names)) << unknown;
}

TEST(ServeOptions, Tokens) {
  EXPECT_NE(why_no_token("short").find("16"), std::string::npos);
  EXPECT_NE(why_no_token("0123456789abcde f"), "");
  EXPECT_EQ(why_no_token("0123456789abcdef"), "");
  EXPECT_FALSE(read_token("/nowhere/token"));
  EXPECT_TRUE(is_same_secret("abc", "abc"));
  EXPECT_FALSE(is_same_secret("abc", "abd"));
  EXPECT_FALSE(is_same_secret("abc", "ab"));
  EXPECT_FALSE(is_same_secret("", "a"));
  EXPECT_FALSE(is_same_secret("a", ""));
}

}  // namespace
}  // namespace buoy::serve
