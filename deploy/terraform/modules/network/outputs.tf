output "vpc_id" {
  description = "The network."
  value       = aws_vpc.this.id
}

output "private_subnets" {
  description = "Where everything runs, one subnet a zone."
  value       = aws_subnet.private[*].id
  depends_on  = [aws_route_table_association.private]
}

output "addresses" {
  description = "Addresses of the NAT gateways."
  value       = aws_eip.nat[*].public_ip
}
