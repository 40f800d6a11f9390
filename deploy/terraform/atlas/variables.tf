variable "organisation" {
  description = "Id of the organisation in Atlas."
  type        = string
}

variable "environment" {
  description = "Which of the two this is."
  type        = string

  validation {
    condition     = contains(["staging", "production"], var.environment)
    error_message = "environment: expected staging or production."
  }
}

variable "region" {
  description = "Region of AWS as Atlas writes it, the same as that of the workers."
  type        = string
  default     = "EU_CENTRAL_1"
}

variable "instance_size" {
  description = "M10 is the smallest with backups, and enough: a wafer is about five kilobytes."
  type        = string
  default     = "M10"
}

variable "addresses" {
  description = "Addresses from which it can be reached, by what they are: the NAT gateways' of the network."
  type        = map(string)

  validation {
    condition     = !contains([for address in values(var.addresses) : cidrhost(address, 0) == "0.0.0.0"], true)
    error_message = "addresses: name the gateways as 203.0.113.7/32, not the whole internet."
  }
}

variable "role_arns" {
  description = "Roles of AWS that log in without a password, for images with pymongo[aws]; else a user is made by hand."
  type        = set(string)
  default     = []
}
