variable "name" {
  description = "Name of the environment."
  type        = string
}

variable "cidr" {
  description = "Addresses of the network, a /16."
  type        = string
}

variable "zones" {
  description = "Letters of the availability zones in use."
  type        = list(string)
}

variable "nat_per_zone" {
  description = "A NAT gateway in each zone, else one for all."
  type        = bool
}

variable "key_arn" {
  description = "Key that encrypts the log."
  type        = string
}

variable "retention_days" {
  description = "How long the log of refused connections is kept."
  type        = number
}
