# The ACL policies that consul.yaml needs, one for each principal. They are what
# skywarden provision applies and skywarden render writes into files.
#
# Each principal has a token with its policy and nothing else, and a virtual node
# of the policy's name, on which its sessions hang:
#
#   consul acl policy create -name=skywarden-game -rules=@policy-game.hcl
#   consul acl token create -policy-name=skywarden-game
#   curl -X PUT .../v1/catalog/register --data '{"Node": "skywarden-game",
#     "Address": "127.0.0.1", "NodeMeta": {"external-node": "true"}}'
#
# The servers deny by default (acl.default_policy), and block /v1/txn
# (http_config.block_endpoints), in which Consul before 2.0 does not keep services
# apart. No principal gets session_prefix, or rights on nodes: with them it could
# end the sessions of others.

# policy skywarden-billing
key "skywarden/names/billing" { policy = "write" }
key_prefix "skywarden/names/" { policy = "read" }
session "skywarden-billing" { policy = "write" }

# policy skywarden-game
key_prefix "skywarden/names/" { policy = "read" }
key_prefix "skywarden/names/game/" { policy = "write" }
session "skywarden-game" { policy = "write" }
